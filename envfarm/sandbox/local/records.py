"""What is on disk about a box: ``<home>/boxes/<id>/box.json``, written before the box starts.

The reaper (Go, ``k8s/agent/internal/host``) reads the same file: names and meaning of the fields are shared with it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from envfarm.core.base import Noun
from envfarm.core.box import BoxInfo, Limits

RECORD = "box.json"
SOCKET = "agent.sock"
LOG = "start.log"


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


class BoxRecord(Noun):
    """A box as its record tells it."""

    id: str
    owner: str
    provider: str
    """Instance of the provider object: its reaper goes by it."""
    owner_process: Process
    monitor: Process = Process()
    """bubblewrap, outside the box."""
    init: Process = Process()
    """The agent: process 1 of the box."""
    cgroups: tuple[str, ...] = ()
    pid_namespace: str = ""
    """The pids above mean something only in this one: a home may be shared between containers."""
    memory_limited: bool = True
    """Whether a cgroup holds the memory limit; if not, each process is limited by itself."""
    limits: Limits
    created_at: datetime
    deadline_at: datetime
    detached: bool = False

    @property
    def alive(self) -> bool:
        """Whether the box runs. True too while it is being started by a living owner."""
        if self.monitor.pid == 0:
            return self.owner_process.alive
        return self.monitor.alive

    def info(self) -> BoxInfo:
        """The line of ``envfarm sandbox ls``."""
        return BoxInfo(
            id=self.id,
            owner=self.owner,
            provider="local",
            pid=self.monitor.pid or None,
            created_at=self.created_at,
            deadline_at=self.deadline_at,
            alive=self.alive,
        )


def write_record(folder: Path, record: BoxRecord) -> None:
    """Replace the record whole. Not synced: a record need not outlive the boot that its box does not outlive."""
    temporary = folder / (RECORD + ".new")
    temporary.write_bytes(record.model_dump_json().encode())
    temporary.rename(folder / RECORD)


def read_record(folder: Path) -> BoxRecord | None:
    """The record in ``folder``, or None where there is none, or none that this version understands."""
    try:
        return BoxRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def read_records(boxes: Path) -> list[BoxRecord]:
    """Every record below ``boxes``, oldest first."""
    found = [read_record(path.parent) for path in boxes.glob(f"box-*/{RECORD}")]
    return sorted((record for record in found if record), key=lambda record: record.created_at)


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


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)
