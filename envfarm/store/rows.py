"""What queries answer with, beside the nouns of core."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from envfarm.core.base import Noun
from envfarm.core.errors import FailureRecord
from envfarm.core.ports import StageOutcome
from envfarm.core.task import Task


class RunRow(Noun):
    """A run."""

    id: str
    kind: str
    config: dict[str, Any]
    created_at: datetime


class FunnelRow(Noun):
    """Ended items of one stage, source, outcome and reason."""

    stage: str
    source: str
    outcome: StageOutcome
    reason: str
    n: int
    wall_sec: float
    cpu_sec: float
    bytes_written: int


class Rate(Noun):
    """``k`` of ``n``, with the Wilson 95 % interval of the share."""

    key: str
    k: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """``k / n``, 0 for none."""
        return self.k / self.n if self.n else 0.0


class ReasonRow(Noun):
    """How often a stage ended with a reason."""

    stage: str
    outcome: StageOutcome
    reason: str
    n: int


class RepoRow(Noun):
    """Ended items of one repository."""

    repo: str
    counts: dict[str, dict[StageOutcome, int]]
    """Stage -> outcome -> items."""


class TaskRow(Noun):
    """A task of a run and where it stands."""

    run: str
    state: str
    updated_at: datetime
    published_at: datetime | None
    """When it was first published."""
    task: Task


class EventRow(Noun):
    """The end of one item."""

    id: int
    run: str
    stage: str
    key: str
    source: str
    repo: str
    outcome: StageOutcome
    reason: str
    detail: str
    failure: FailureRecord | None
    log: str
    """Blob digest, or empty."""
    attempt: int
    worker: str
    wall_sec: float
    cpu_sec: float
    bytes_written: int
    at: datetime
