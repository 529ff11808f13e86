"""What stages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from envfarm.core.environment import Environment, Recipe
from envfarm.core.errors import Reason, StoreError
from envfarm.core.ports import StageOutcome
from envfarm.core.task import Task
from envfarm.core.work import Lease, StageResult, Work
from envfarm.farm.stage import Completed
from envfarm.store import Transaction, queries

from ..app import App
from ..plan import RunPlan

T = TypeVar("T")


@dataclass
class RunStage:
    """A stage of one run. Blocking calls go to threads; the event loop only waits."""

    app: App
    run_name: str
    plan: RunPlan

    def __post_init__(self) -> None:
        """A stage makes here what it keeps between items."""

    def next_work(self, lease: Lease, stage: str, key: str, payload: Mapping[str, Any], *, source: str = "") -> Work:
        """Work that follows from ``lease``, with its labels."""
        return Work(
            run=self.run_name,
            stage=stage,
            key=key,
            payload=dict(payload),
            source=source or lease.work.source,
            repo=lease.work.repo,
        )

    def task(self, task_id: str) -> Task:
        """A task of this run."""
        return must(queries.task(self.app.store, task_id, self.run_name), f"Task {task_id}")

    def environment(self, digest: str) -> Environment:
        """An environment of the store."""
        return must(queries.environment(self.app.store, digest), f"Environment {digest}")

    def recipe(self, digest: str) -> Recipe:
        """A recipe of the store."""
        return must(queries.recipe(self.app.store, digest), f"Recipe {digest}")


def must(found: T | None, what: str) -> T:
    """``found``, or ``StoreError`` (internal): the run speaks of something its store does not have."""
    if found is None:
        raise StoreError(
            f"{what} is not in the store.",
            reason=Reason.internal,
            phase="read",
            remedy="The database was changed under the run; start a new one.",
        )
    return found


def done(
    *following: Work, write: Callable[[Transaction], None] | None = None, detail: str = "", log: str = "", **usage: Any
) -> Completed:
    """The item did what it was for."""
    return Completed(StageResult(outcome=StageOutcome.done, next=following, detail=detail, log=log, **usage), write)


def rejected(
    reason: str, detail: str = "", *, write: Callable[[Transaction], None] | None = None, log: str = "", **usage: Any
) -> Completed:
    """The item was turned away for a reason of its own."""
    result = StageResult(outcome=StageOutcome.rejected, reason=reason, detail=detail[:2000], log=log, **usage)
    return Completed(result, write)
