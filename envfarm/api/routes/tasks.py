"""Tasks, their evidence and their verdicts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from envfarm.core.verdict import Validation, Verdict
from envfarm.dashboard.access import Limit, StoreDep, found
from envfarm.store import queries
from envfarm.store.rows import TaskRow

router = APIRouter(tags=["tasks"])


@router.get("/tasks/{task_id}")
def task(store: StoreDep, task_id: str, run: Annotated[str | None, Query(max_length=300)] = None) -> TaskRow:
    """A task of a run, or as it was written last."""
    return found(queries.task_row(store, task_id, run or None), "task", task_id)


@router.get("/tasks/{task_id}/validations")
def validations(store: StoreDep, task_id: str) -> list[Validation]:
    """The three-state evidence, newest first."""
    found(queries.task_row(store, task_id), "task", task_id)
    return queries.validations(store, task_id)


@router.get("/tasks/{task_id}/verdicts")
def verdicts(store: StoreDep, task_id: str, limit: Limit = 50) -> list[Verdict]:
    """Verdicts about submissions to a task, newest first."""
    found(queries.task_row(store, task_id), "task", task_id)
    return queries.verdicts(store, task_id, limit)
