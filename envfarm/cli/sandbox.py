"""``envfarm sandbox``: start, use and end boxes of the local provider by hand."""

from __future__ import annotations

import asyncio
import io
import shlex
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from envfarm.core.box import BoxSpec, ExecRequest, ExecResult, Network
from envfarm.core.config import Config, LocalProviderConfig
from envfarm.core.errors import ConfigError, Reason

from .common import ConfigFile, Home, Json, configuration, note, plain, print_json, print_table, run_async

if TYPE_CHECKING:
    from envfarm.core.ports import Sandbox
    from envfarm.sandbox.local import LocalProvider

app = typer.Typer(no_args_is_help=True, help="Start, use and end boxes on this machine.")

_DETACHED_SEC = 3600.0
Argv = Annotated[list[str], typer.Argument(help="Command and arguments; put -- before it.", metavar="COMMAND...")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds the command may take.")]
Interactive = Annotated[bool, typer.Option("--interactive", "-i", help="Pass our standard input on, to its end.")]
BoxId = Annotated[str, typer.Argument(help="Id of the box, as 'envfarm sandbox ls' shows it.")]


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    argv: Annotated[list[str] | None, typer.Argument(help="Command; put -- before it.", metavar="[COMMAND...]")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave the box running and print its id.")] = False,
    wall_sec: Annotated[float | None, typer.Option("--wall", min=1, help="Life of the box in seconds.")] = None,
    registry: Annotated[bool, typer.Option("--registry", help="Give it the host's network.")] = False,
    timeout: Timeout = 300.0,
    interactive: Interactive = False,
    config: ConfigFile = None,
    home: Home = None,
) -> int:
    """Run a command in a fresh box and end the box; its exit status is ours."""
    if not argv and not detach:
        raise typer.BadParameter("Give a command after --, or --detach for a box that stays.")
    resolved = configuration(config, home)
    limits = resolved.limits
    life = wall_sec or (_DETACHED_SEC if detach else max(limits.wall_sec, timeout + 10))
    spec = BoxSpec(
        limits=limits.model_copy(update={"wall_sec": life}),
        network=Network.registry if registry else Network.none,
        owner="cli",
    )

    async def work(provider: LocalProvider) -> int:
        if not detach:
            box = await provider.acquire(spec)
            return _status(await _exec(box, argv or [], spec.workdir, timeout, interactive))
        info = await provider.start_detached(spec)
        if argv:
            result = await _exec(await provider.attach(info.id), argv, spec.workdir, timeout, interactive)
            note(f"The command ended with status {_status(result)}.")
        typer.echo(info.id)
        note(f"The box ends by itself in {life:g} s; end it before with: envfarm sandbox rm {info.id}")
        return 0

    return _with_provider(resolved, work)


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def exec_(
    box: BoxId,
    argv: Argv,
    workdir: Annotated[str, typer.Option("--workdir", "-w", help="Folder it starts in.")] = "/repo",
    timeout: Timeout = 300.0,
    interactive: Interactive = False,
    config: ConfigFile = None,
    home: Home = None,
) -> int:
    """Run a command in a running box; its exit status is ours."""

    async def work(provider: LocalProvider) -> int:
        return _status(await _exec(await provider.attach(box), argv, workdir, timeout, interactive))

    return _with_provider(configuration(config, home), work)


@app.command()
def cp(
    source: Annotated[str, typer.Argument(help="PATH here or BOX:PATH.")],
    target: Annotated[str, typer.Argument(help="PATH here or BOX:PATH.")],
    config: ConfigFile = None,
    home: Home = None,
) -> None:
    """Copy a file or a folder into a box or out of it, into the folder TARGET names."""
    into, out = _box_path(target), _box_path(source)
    if (into is None) == (out is None):
        raise typer.BadParameter("One of the two must be BOX:PATH, the other a path here.")

    async def work(provider: LocalProvider) -> int:
        if into is not None:
            await (await provider.attach(into[0])).put(into[1], _pack(Path(source)))
        elif out is not None:
            _unpack(await (await provider.attach(out[0])).get(out[1]), Path(target))
        return 0

    _with_provider(configuration(config, home), work)


@app.command()
def ls(
    owner: Annotated[str | None, typer.Option("--owner", help="Only boxes of this owner.")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    home: Home = None,
) -> None:
    """List boxes, whoever started them."""
    from envfarm.sandbox.local import LocalProvider

    provider = LocalProvider(configuration(config, home).home_path)
    boxes = run_async(provider.list(owner))
    if as_json:
        print_json([plain(box) for box in boxes])
        return
    rows = [
        (b.id, b.owner, "running" if b.alive else "ended", b.pid or "", f"{b.created_at:%Y-%m-%d %H:%M:%S}",
         f"{b.deadline_at:%H:%M:%S}" if b.deadline_at else "")
        for b in boxes
    ]  # fmt: skip
    print_table(("box", "owner", "state", "pid", "started (UTC)", "ends"), rows)


@app.command()
def rm(
    boxes: Annotated[list[str], typer.Argument(help="Ids of boxes.", metavar="BOX...")],
    config: ConfigFile = None,
    home: Home = None,
) -> None:
    """End boxes and everything in them."""

    async def work(provider: LocalProvider) -> int:
        for box in boxes:
            await provider.remove(box)
        return 0

    _with_provider(configuration(config, home), work)


def _with_provider(config: Config, work: Callable[[LocalProvider], Awaitable[int]]) -> int:
    from envfarm.sandbox.local import LocalProvider

    if not isinstance(config.provider, LocalProviderConfig):
        raise ConfigError(
            "'envfarm sandbox' works with the local provider only.",
            reason=Reason.config,
            phase="config",
            remedy="Set provider.type to 'local' for this command.",
        )
    settings = config.provider

    async def entered() -> int:
        async with LocalProvider(config.home_path, settings) as provider:
            return await work(provider)

    return run_async(entered())


async def _exec(box: Sandbox, argv: list[str], workdir: str, timeout: float, interactive: bool) -> ExecResult:
    def show(stream: str, data: bytes) -> None:
        out = sys.stdout.buffer if stream == "stdout" else sys.stderr.buffer
        out.write(data)
        out.flush()

    stdin = await asyncio.to_thread(sys.stdin.buffer.read) if interactive else None
    request = ExecRequest(argv=tuple(argv), cwd=workdir, timeout_sec=timeout)
    result = await box.exec(request, stdin=stdin, on_output=show)
    if result.timed_out:
        note(f"{shlex.join(argv)} was ended after {timeout:g} s.")
    if result.oom_killed:
        note("The kernel ended a process for want of memory: raise limits.memory_mb if it needs more.")
    return result


def _status(result: ExecResult) -> int:
    """As a shell counts: 128 and the signal's number for a command that was killed."""
    return result.exit_code if result.exit_code is not None else 128 + (result.signal or 0)


def _box_path(text: str) -> tuple[str, str] | None:
    box, colon, path = text.partition(":")
    return (box, path) if colon and box.startswith("box-") and path else None


def _pack(source: Path) -> bytes:
    if not source.exists():
        raise typer.BadParameter(f"There is no {source}.")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(source, arcname=source.resolve().name)
    return buffer.getvalue()


def _unpack(archive: bytes, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = [PurePosixPath(member.name) for member in tar.getmembers()]
        # The filter refuses what would leave the folder: the archive was made where the subject rules.
        tar.extractall(target, filter="data")
    note(f"{len(names)} entries copied to {target}.")
