"""The boxes a build works in: one with the registry to install, one without any network to look at the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from envfarm.core.box import BoxSpec, ExecRequest, ExecResult, Limits, Mount, Network
from envfarm.core.environment import ENV_DIR, TOOLCHAIN_DIR, WORKDIR, Environment, Step
from envfarm.core.ports import Sandbox, SandboxProvider

from . import uv

OWNER = "build"
BUILD_LIMITS = Limits(cpus=2, memory_mb=8192, pids=2048, file_size_mb=4096, disk_mb=6144, wall_sec=5400)
PROBE_LIMITS = Limits(cpus=1, memory_mb=4096, pids=512, file_size_mb=1024, disk_mb=2048, wall_sec=900)
Log = Callable[[str], None]


@asynccontextmanager
async def build_box(provider: SandboxProvider, *, env_dir: Path, toolchain: Path, cache: Path):
    """A box that reaches the package registry and may write the environment and this project's download cache."""
    spec = BoxSpec(
        limits=BUILD_LIMITS,
        network=Network.registry,
        env=uv.ENVIRONMENT,
        owner=OWNER,
        mounts=(
            Mount(source=str(env_dir), target=ENV_DIR, read_only=False),
            Mount(source=str(toolchain), target=TOOLCHAIN_DIR),
            Mount(source=str(uv.binary_folder()), target=uv.BIN_DIR),
            Mount(source=str(cache), target=uv.CACHE_DIR, read_only=False),
        ),
    )
    async with _box(provider, spec) as sandbox:
        yield sandbox


@asynccontextmanager
async def probe_box(provider: SandboxProvider, environment: Environment):
    """A box as tests get it: the environment read-only, no network."""
    async with _box(provider, BoxSpec(environment=environment, limits=PROBE_LIMITS, owner=OWNER)) as sandbox:
        yield sandbox


@asynccontextmanager
async def _box(provider: SandboxProvider, spec: BoxSpec):
    sandbox = await provider.acquire(spec)
    try:
        yield sandbox
    finally:
        await provider.release(sandbox)


async def run_step(sandbox: Sandbox, step: Step, env: Mapping[str, str], log: Log) -> ExecResult:
    """Run one step in the tree; its output goes to ``log`` as it comes."""
    log(f"$ [{step.name}] {' '.join(_short(word) for word in step.argv)}")
    request = ExecRequest(
        argv=step.argv, cwd=WORKDIR, env={**uv.ENVIRONMENT, **env, **step.env}, timeout_sec=step.timeout_sec
    )
    lines = _Lines(log)
    result = await sandbox.exec(request, on_output=lines)
    lines.flush()
    if not result.ok:
        log(
            f"[{step.name}] " + ("timed out" if result.timed_out else f"ended with {result.exit_code or result.signal}")
        )
    return result


class _Lines:
    """Hands on whole lines of both streams."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open: dict[str, bytes] = {}

    def __call__(self, stream: str, chunk: bytes) -> None:
        *lines, self._open[stream] = (self._open.get(stream, b"") + chunk).split(b"\n")
        for line in lines:
            self._log(line.decode("utf-8", "replace").rstrip())

    def flush(self) -> None:
        """Hand on what came without a line's end."""
        for rest in filter(None, self._open.values()):
            self._log(rest.decode("utf-8", "replace"))


def text_of(result: ExecResult) -> str:
    """Both streams of a result as text."""
    return (result.stdout + b"\n" + result.stderr).decode("utf-8", "replace")


def _short(word: str) -> str:
    return word if len(word) <= 120 else word[:117] + "..."
