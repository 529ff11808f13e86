"""Processes named for good, as the kernel's procfs tells them."""

from __future__ import annotations

import os
from pathlib import Path

from .base import Noun


class Process(Noun):
    """A process named for good: a pid alone is used again, a pid with its start time is not."""

    pid: int = 0
    start: int = 0
    """Clock ticks after boot; 0 with pid 0 means not known yet."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """The live process ``pid``; an empty one if it is gone."""
        start = start_time(pid)
        return cls() if start is None else cls(pid=pid, start=start)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.pid > 0 and start_time(self.pid) == self.start


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which ``pid`` started; None if it is gone or a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def parent_of(pid: int) -> int | None:
    """Pid of the parent; None if ``pid`` is gone or a zombie."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def state_of(pid: int) -> str:
    """The kernel's letter for what ``pid`` does, ``T`` for stopped; empty if it is gone or a zombie."""
    fields = _stat(pid)
    return fields[0].decode() if fields else ""


def children_of(pid: int) -> list[int]:
    """Pids of the living children."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [other for other in numbers if parent_of(other) == pid]


def _stat(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  (hot path: a Path costs more than the read)
            stat = file.read()
    except OSError:
        return []
    # The name in parentheses may hold blanks and parentheses itself: fields are counted from the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return [] if fields[0] in (b"Z", b"X") else fields


def own_process() -> Process:
    """This process."""
    return Process.of(os.getpid())


def pid_namespace() -> str:
    """The name of the pid namespace we are in."""
    return str(Path("/proc/self/ns/pid").readlink())
