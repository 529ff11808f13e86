"""What several commands share: configuration flags, printing, running async code under signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from pydantic import BaseModel

from envfarm.core.config import Config, load_config

T = TypeVar("T")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; ENVFARM_ variables and flags win.")]
Home = Annotated[Path | None, typer.Option("--home", help="Folder of environments, blobs and the database.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Workers = Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Items under way at once.")]


def configuration(file: Path | None, home: Path | None, **flags: Any) -> Config:
    """The resolved configuration of a command. ``flags`` are dotted keys with ``__`` for the dot; None is unset."""
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(file, flags={"home": str(home.resolve()) if home else None, **dotted})


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end. Ctrl-C and SIGTERM cancel the work, let it clean up, and end in ``KeyboardInterrupt``."""

    async def guarded() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, ValueError):  # not the main thread, or not POSIX
                loop.add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def plain(value: Any) -> Any:
    """Models as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(plain(value), option=options, default=str).decode() + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", file: Any = None) -> None:
    """A rich table on stdout (or ``file``); numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())
    rows = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(table)


def note(text: str) -> None:
    """A line of progress on stderr."""
    typer.echo(text, err=True)
