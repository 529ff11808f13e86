"""Nouns of stage work: what is queued, what a lease is, what a stage gave."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .base import Noun
from .errors import FailureRecord
from .ports import StageOutcome


class Work(Noun):
    """One unit of stage work. ``(run, stage, key)`` is unique: queueing it twice is one item."""

    run: str
    stage: str
    key: str
    payload: dict[str, Any] = {}
    """JSON values only."""
    source: str = ""
    """Label for the funnel: ``pypi``, ``git``, ``synth``."""
    repo: str = ""
    """Label for the funnel: the repository's short name."""


class Lease(Noun):
    """The right to do one unit of work until ``expires_at``. ``token`` fences: only the newest may finish."""

    item_id: int
    work: Work
    token: int
    attempt: int
    """1 for the first try."""
    worker: str
    expires_at: datetime


class StageResult(Noun):
    """How a unit of work ended, for the funnel and the drill-down."""

    outcome: StageOutcome
    reason: str = ""
    """Empty for ``done``; else a slug of ``RejectReason``, ``InvalidReason`` or ``Reason``."""
    detail: str = ""
    failure: FailureRecord | None = None
    log: str = ""
    """Blob digest of the stage's log, or empty."""
    next: tuple[Work, ...] = ()
    """Queued in the same transaction that finishes this item."""
    wall_sec: float = 0.0
    cpu_sec: float = 0.0
    bytes_written: int = 0
