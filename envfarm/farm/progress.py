"""Counts of a run under way, from its work events: what a progress display shows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from envfarm.core.ports import StageOutcome
from envfarm.core.work import Lease

from .worker import WorkEvent


@dataclass
class Progress:
    """Finished and active items of each stage since this process took the run up."""

    stages: Sequence[str]
    started: float = field(default_factory=time.monotonic)
    outcomes: Counter[tuple[str, StageOutcome]] = field(default_factory=Counter[tuple[str, StageOutcome]])
    retries: Counter[str] = field(default_factory=Counter[str])
    active: dict[int, Lease] = field(default_factory=dict[int, Lease])

    def start(self, lease: Lease) -> None:
        """An item was leased."""
        self.active[lease.item_id] = lease

    def event(self, event: WorkEvent) -> None:
        """An item ended, or will be tried again."""
        self.active.pop(event.lease.item_id, None)
        if event.retried:
            self.retries[event.lease.work.stage] += 1
        else:
            self.outcomes[event.lease.work.stage, event.outcome] += 1

    @property
    def elapsed_sec(self) -> float:
        """Wall seconds since the start."""
        return time.monotonic() - self.started

    def rows(self) -> list[tuple[str, int, int, int, int]]:
        """``(stage, active, done, rejected, failed)`` in pipeline order."""
        active = Counter(lease.work.stage for lease in self.active.values())
        done, rejected, failed = StageOutcome.done, StageOutcome.rejected, StageOutcome.failed
        count = self.outcomes
        return [
            (stage, active[stage], count[stage, done], count[stage, rejected], count[stage, failed])
            for stage in self.stages
        ]

    def line(self) -> str:
        """One line: ``mine 4  filter 40-12  draft 28 ...`` (done, minus rejected and failed)."""
        parts: list[str] = []
        for stage, active, done, rejected, failed in self.rows():
            if active or done or rejected or failed:
                lost = rejected + failed
                parts.append(f"{stage} {done}" + (f"-{lost}" if lost else "") + (f"+{active}" if active else ""))
        return f"[{self.elapsed_sec:5.0f} s] " + "  ".join(parts)
