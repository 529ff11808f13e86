"""Nouns of sandboxes: what is asked of a box and what a command in it gave."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from .base import Noun
from .environment import WORKDIR, Environment


class Network(StrEnum):
    """What a box can reach."""

    none = "none"
    registry = "registry"
    """The host's network, for environment builds only: never while a task is solved or graded."""


class Limits(Noun):
    """Resource limits of one box. All of them hold for the whole box, except ``file_size_mb`` (per file)."""

    cpus: float = Field(default=1.0, gt=0)
    memory_mb: int = Field(default=2048, gt=0)
    pids: int = Field(default=256, gt=0)
    file_size_mb: int = Field(default=512, gt=0)
    disk_mb: int = Field(default=1024, gt=0)
    """Size of each writable scratch area (tree, /tmp, home). On the local provider these are memory-backed."""
    wall_sec: float = Field(default=1800.0, gt=0)
    """Life of the box; its agent ends it then, whoever has forgotten it."""


class Mount(Noun):
    """A host folder in a box. Only providers with the ``mounts`` capability take one."""

    source: str
    target: str
    read_only: bool = True


class BoxSpec(Noun):
    """What a provider is asked for."""

    environment: Environment | None = None
    limits: Limits = Limits()
    network: Network = Network.none
    workdir: str = WORKDIR
    env: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    owner: str = "envfarm"
    """Label of whoever answers for the box: ``list(owner)`` and the reaper go by it."""
    writable_env: bool = False
    """The environment's layers get a scratch overlay, so that rebuild steps may write into them."""


class BoxInfo(Noun):
    """One line of ``envfarm sandbox ls``."""

    id: str
    owner: str
    provider: str
    pid: int | None = None
    created_at: datetime
    deadline_at: datetime | None = None
    alive: bool = True


class ExecRequest(Noun):
    """One command. ``argv`` is never given to a shell."""

    argv: tuple[str, ...] = Field(min_length=1)
    cwd: str = WORKDIR
    env: dict[str, str] = {}
    """Added to the box's clean environment."""
    timeout_sec: float = 300.0
    output_limit_bytes: int = 4 << 20
    """Per stream. What is beyond it is counted and thrown away, from the middle: head and tail are kept."""
    report_fd: bool = False
    """Give the command a pipe as descriptor 3 whose bytes come back as ``ExecResult.report``: the graders' channel."""
    report_limit_bytes: int = 64 << 20
    idempotency_key: str = ""
    """A call repeated with the same key returns the first result and runs nothing."""


class ExecResult(Noun):
    """What a command gave. Exactly one of ``exit_code`` and ``signal`` is set, unless it never started."""

    exit_code: int | None
    signal: int | None = None
    timed_out: bool = False
    oom_killed: bool = False
    stdout: bytes = b""
    stderr: bytes = b""
    report: bytes = b""
    stdout_cut_bytes: int = 0
    stderr_cut_bytes: int = 0
    report_cut_bytes: int = 0
    duration_sec: float = 0.0
    cpu_sec: float = 0.0
    max_rss_kb: int = 0
    replayed: bool = False
    """True when this is the stored result of an earlier call with the same key."""

    @property
    def ok(self) -> bool:
        """The command ran to its end and exited with 0."""
        return self.exit_code == 0 and not self.timed_out


class FileStat(Noun):
    """What ``stat`` says of a path in a box."""

    kind: str
    """``file``, ``dir``, ``symlink`` or ``other``."""
    size: int
    mode: int
    mtime: float
