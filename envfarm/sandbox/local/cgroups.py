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
            write(make(parent / box_id), v1_settings(controller, limits))
        if self.v2 is not None:
            make(self.v2)
            enable(self.v2, self.v2_controllers)
            settings = [item for name in sorted(self.v2_controllers) for item in v2_settings(name, limits)]
            write(make(self.v2 / box_id), settings)

    def oom_kills(self, box_id: str) -> int:
        """Processes of the box that the kernel has killed for want of memory; 0 where that is not counted."""
        if "memory" in self.v1:
            return _counter(self.v1["memory"] / box_id / "memory.oom_control")
        if self.v2 is not None and "memory" in self.v2_controllers:
            return _counter(self.v2 / box_id / "memory.events")
        return 0


async def remove(paths: Iterable[Path], budget_sec: float = 2.0) -> list[Path]:
    """Remove empty cgroups; returns those that would not go. The kernel answers EBUSY for a moment after an exit."""
    stubborn: list[Path] = []
    deadline = time.monotonic() + budget_sec
    for path in paths:
        pause = 0.001
        while not try_remove(path):
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


def make(path: Path) -> Path:
    """Make a cgroup below the shared parent, or take the one that is there."""
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
            weigh(path.parent)
    raise OSError(errno.EBUSY, "the cgroup's parent keeps disappearing", str(path))


def weigh(parent: Path) -> None:
    """Give all boxes together the weight of as many ordinary tasks as there are cores.

    A new group weighs as much as one task outside it: beside anything else that is busy, sixteen boxes would have to
    make do with the time of one process.
    """
    cores = os.cpu_count() or 1
    write(parent, [("cpu.shares", str(1024 * cores), False), ("cpu.weight", str(min(100 * cores, 10_000)), False)])


def enable(folder: Path, controllers: frozenset[str]) -> None:
    """Hand controllers on to the groups below (version 2). Raises ``OSError``."""
    missing = controllers - set((folder / "cgroup.subtree_control").read_text().split())
    if missing:
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(missing)))


def write(path: Path, settings: list[tuple[str, str, bool]]) -> None:
    """Write settings into a cgroup. Raises ``OSError``, for a missing file only where the setting is required."""
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


def v1_settings(controller: str, limits: Limits) -> list[tuple[str, str, bool]]:
    """What holds a controller to the limits: file, value, and whether it must be there (swap accounting may be off)."""
    memory = str(limits.memory_mb << 20)
    return {
        "memory": [("memory.limit_in_bytes", memory, True), ("memory.memsw.limit_in_bytes", memory, False)],
        "pids": [("pids.max", str(limits.pids + SUPERVISOR_TASKS), True)],
        "cpu": [
            ("cpu.cfs_period_us", str(_CPU_PERIOD_US), True),
            ("cpu.cfs_quota_us", str(int(limits.cpus * _CPU_PERIOD_US)), True),
        ],
    }[controller]


def v2_settings(controller: str, limits: Limits) -> list[tuple[str, str, bool]]:
    """As :func:`v1_settings`, for version 2."""
    return {
        "memory": [("memory.max", str(limits.memory_mb << 20), True), ("memory.swap.max", "0", False)],
        "pids": [("pids.max", str(limits.pids + SUPERVISOR_TASKS), True)],
        "cpu": [("cpu.max", f"{int(limits.cpus * _CPU_PERIOD_US)} {_CPU_PERIOD_US}", True)],
    }[controller]


def try_remove(path: Path) -> bool:
    """Whether the cgroup is gone now."""
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
