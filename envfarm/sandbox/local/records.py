"""What is on disk about a box: ``<home>/boxes/<id>/box.json``, written before the box starts.

The reaper (Go, ``k8s/agent/internal/host``) reads the same file: names and meaning of the fields are shared with it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from envfarm.core.base import Noun
from envfarm.core.box import BoxInfo, Limits
from envfarm.core.process import Process

RECORD = "box.json"
SOCKET = "agent.sock"
LOG = "start.log"


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


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)
