"""Live progress on stderr: a table on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from envfarm.farm.progress import Progress


@contextlib.asynccontextmanager
async def shown(progress: Progress, *, quiet: bool = False, every_sec: float = 5.0) -> AsyncIterator[None]:
    """Show ``progress`` while the body runs."""
    if quiet:
        yield
        return
    console = Console(file=sys.stderr, highlight=False)
    task = asyncio.create_task(_table(progress, console) if console.is_terminal else _lines(progress, every_sec))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _lines(progress: Progress, every_sec: float) -> None:
    last = ""
    while True:
        await asyncio.sleep(every_sec)
        line = progress.line()
        if line.split("] ", 1)[-1] != last:
            print(line, file=sys.stderr, flush=True)
            last = line.split("] ", 1)[-1]


async def _table(progress: Progress, console: Console) -> None:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            live.update(_render(progress))
            await asyncio.sleep(0.25)


def _render(progress: Progress) -> Group:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "active", "done", "rejected", "failed"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in progress.rows():
        table.add_row(*map(str, row))
    busy = [f"{lease.work.stage} {lease.work.repo or lease.work.key}" for lease in progress.active.values()]
    return Group(table, Text(f"{progress.elapsed_sec:.0f} s  " + "  ".join(busy[:4]), style="dim"))
