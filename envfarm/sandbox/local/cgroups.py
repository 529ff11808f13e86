"""Resource limits of a whole box by cgroups, version 1 or 2, or some controllers of each.

Boxes lie in a folder of their own at the top of each hierarchy that this process may write to. A controller that
cannot be had is missing from :attr:`Cgroups.controllers`; the provider says so in its capabilities.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from envfarm.core.box import Limits

WANTED = ("memory", "pids", "cpu")
FOLDER = "envfarm"
SUPERVISOR_TASKS = 128
"""Threads of the agent and bubblewrap: the subject is held to ``Limits.pids`` by a resource limit inside the box, and
the cgroup leaves this much more, so that a fork bomb cannot starve the supervisor."""
_CPU_PERIOD_US = 100_000


@dataclass(frozen=True)
class Cgroups:
    """Where boxes' cgroups are made. ``v1`` maps a controller to its folder; ``v2`` controllers share one."""

    v1: dict[str, Path] = field(default_factory=dict)
    v2: Path | None = None
    v2_controllers: frozenset[str] = frozenset()
    note: str = ""
    """Why a controller is missing; empty when none is."""

    @property
    def controllers(self) -> frozenset[str]:
        """Those of memory, pids and cpu that hold."""
        return frozenset(self.v1) | self.v2_controllers

    def paths(self, box_id: str) -> tuple[Path, ...]:
        """The folders a box will have."""
        parents = list(self.v1.values()) + ([self.v2] if self.v2 else [])
        return tuple(parent / box_id for parent in parents)

    def create(self, box_id: str, limits: Limits) -> None:
        """Make a box's cgroups and write its limits. Raises ``OSError``; :func:`remove` takes back a partial one."""
        for controller, parent in self.v1.items():
            _write(_make(parent / box_id), _v1_settings(controller, limits))
        if self.v2 is not None:
            settings = [item for name in sorted(self.v2_controllers) for item in _v2_settings(name, limits)]
            _write(_make(self.v2 / box_id), settings)

    def oom_kills(self, box_id: str) -> int:
        """Processes of the box that the kernel has killed for want of memory; 0 where that is not counted."""
        if "memory" in self.v1:
            return _counter(self.v1["memory"] / box_id / "memory.oom_control")
        if self.v2 is not None and "memory" in self.v2_controllers:
            return _counter(self.v2 / box_id / "memory.events")
        return 0


def find_cgroups(mounts: str | None = None, own: str | None = None) -> Cgroups:
    """Probe, by making and removing a cgroup, which controllers can be used here."""
    mounts = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    own = Path("/proc/self/cgroup").read_text() if own is None else own
    v1_mounts, v2_mount = parse_mounts(mounts)
    v1: dict[str, Path] = {}
    problems: list[str] = []
    for controller in WANTED:
        if controller in v1_mounts:
            parent = v1_mounts[controller] / FOLDER
            if problem := _probe(parent, _v1_settings(controller, Limits())):
                problems.append(f"{controller}: {problem}")
            else:
                v1[controller] = parent
    v2, controllers = None, frozenset[str]()
    left = frozenset(WANTED) - set(v1_mounts)
    if v2_mount is not None and left:
        v2, controllers, problem = _find_v2(v2_mount, own, left)
        if problem:
            problems.append(problem)
    elif left:
        problems.append(f"{', '.join(sorted(left))}: no hierarchy is mounted")
    return Cgroups(v1=v1, v2=v2, v2_controllers=controllers, note="; ".join(problems))


def parse_mounts(mounts: str) -> tuple[dict[str, Path], Path | None]:
    """Version 1 controllers with their mount points, and version 2's, from the text of ``/proc/self/mounts``."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        if fields[2] == "cgroup2":
            v2 = v2 or Path(fields[1])
        elif fields[2] == "cgroup":
            for option in fields[3].split(","):
                if option in WANTED:
                    v1.setdefault(option, Path(fields[1]))
    return v1, v2


async def remove(paths: Iterable[Path], budget_sec: float = 2.0) -> list[Path]:
    """Remove empty cgroups; returns those that would not go. The kernel answers EBUSY for a moment after an exit."""
    stubborn: list[Path] = []
    deadline = time.monotonic() + budget_sec
    for path in paths:
        pause = 0.001
        while not _try_remove(path):
            if time.monotonic() > deadline:
                stubborn.append(path)
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)
    return stubborn


def remove_parents(cgroups: Cgroups) -> None:
    """Remove the shared folders if no box of anybody is left in them."""
    for parent in (*cgroups.v1.values(), *([cgroups.v2] if cgroups.v2 else [])):
        with contextlib.suppress(OSError):  # in use by another provider
            parent.rmdir()


def _find_v2(mount: Path, own: str, wanted: frozenset[str]) -> tuple[Path | None, frozenset[str], str]:
    inside = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    here = mount / inside.strip().lstrip("/")
    # A delegated subtree ends somewhere above us; a cgroup that holds processes itself cannot hand on controllers.
    problem = ""
    for base in (*(p for p in (here, *here.parents) if p.is_relative_to(mount)),):
        try:
            there = wanted & set((base / "cgroup.controllers").read_text().split())
            if not there or not os.access(base / "cgroup.procs", os.W_OK):
                problem = problem or f"{', '.join(sorted(wanted))}: not delegated to this user"
                continue
            _enable(base, there)
            parent = _make(base / FOLDER)
            _enable(parent, there)
        except OSError as error:
            problem = problem or f"{', '.join(sorted(wanted))}: {error.strerror}"
            continue
        if failed := _probe(parent, [item for name in sorted(there) for item in _v2_settings(name, Limits())]):
            problem = failed
            continue
        missing = wanted - there
        return parent, there, f"{', '.join(sorted(missing))}: not delegated to this user" if missing else ""
    return None, frozenset(), problem


def _enable(folder: Path, controllers: frozenset[str]) -> None:
    missing = controllers - set((folder / "cgroup.subtree_control").read_text().split())
    if missing:
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _probe(parent: Path, settings: list[tuple[str, str, bool]]) -> str:
    path = parent / f"probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        _write(_make(path), settings)
        if not os.access(path / "cgroup.procs", os.W_OK):
            return "processes may not be moved"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        _try_remove(path)
    return ""


def _make(path: Path) -> Path:
    for _ in range(20):
        try:
            path.mkdir(mode=0o755)
            return path
        except FileExistsError:
            return path
        except FileNotFoundError:
            # The shared parent is made by the first box and goes with the last, possibly of another process.
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(mode=0o755)
    raise OSError(errno.EBUSY, "the cgroup's parent keeps disappearing", str(path))


def _write(path: Path, settings: list[tuple[str, str, bool]]) -> None:
    for name, value, required in settings:
        try:
            fd = os.open(path / name, os.O_WRONLY)
        except FileNotFoundError:
            if required:
                raise
            continue
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _v1_settings(controller: str, limits: Limits) -> list[tuple[str, str, bool]]:
    """File, value, and whether the file must be there (swap accounting may be off)."""
    memory = str(limits.memory_mb << 20)
    return {
        "memory": [("memory.limit_in_bytes", memory, True), ("memory.memsw.limit_in_bytes", memory, False)],
        "pids": [("pids.max", str(limits.pids + SUPERVISOR_TASKS), True)],
        "cpu": [
            ("cpu.cfs_period_us", str(_CPU_PERIOD_US), True),
            ("cpu.cfs_quota_us", str(int(limits.cpus * _CPU_PERIOD_US)), True),
        ],
    }[controller]


def _v2_settings(controller: str, limits: Limits) -> list[tuple[str, str, bool]]:
    return {
        "memory": [("memory.max", str(limits.memory_mb << 20), True), ("memory.swap.max", "0", False)],
        "pids": [("pids.max", str(limits.pids + SUPERVISOR_TASKS), True)],
        "cpu": [("cpu.max", f"{int(limits.cpus * _CPU_PERIOD_US)} {_CPU_PERIOD_US}", True)],
    }[controller]


def _try_remove(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # EBUSY: the caller tries again and reports what stays
    return True


def _counter(path: Path) -> int:
    try:
        text = path.read_text()
    except OSError:
        return 0  # the box has been removed
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
