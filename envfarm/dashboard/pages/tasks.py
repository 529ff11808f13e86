"""One task: statement, gold patch, evidence, verdicts and rollouts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from envfarm.store import queries

from .. import texts
from ..access import BlobsDep, StoreDep, found
from ..diffview import diff_lines
from ..evidence import STATE_TITLES, run_lines, test_lines, transition_counts
from ..templating import render

router = APIRouter()

TESTS_SHOWN = 500
ROWS = 50


@router.get("/tasks/{task_id}")
def task_page(
    store: StoreDep,
    blobs: BlobsDep,
    task_id: str,
    run: Annotated[str, Query(max_length=300)] = "",
    transition: Annotated[str, Query(max_length=20)] = "",
) -> HTMLResponse:
    """A task of a run, or as it was written last."""
    row = found(queries.task_row(store, task_id, run or None), "task", task_id)
    validations = [
        {
            "validation": validation,
            "runs": list(run_lines(validation)),
            "transitions": transition_counts(validation),
            "tests": test_lines(validation, transition, TESTS_SHOWN),
        }
        for validation in queries.validations(store, task_id)
    ]
    gold, test_patch = texts.head(blobs, row.task.gold_patch), texts.head(blobs, row.task.test_patch)
    return HTMLResponse(
        render(
            "task.html",
            row=row,
            task=row.task,
            gold=gold,
            gold_lines=list(diff_lines(gold.text)) if gold else [],
            test_patch=test_patch,
            test_lines=list(diff_lines(test_patch.text)) if test_patch else [],
            validations=validations,
            state_titles=STATE_TITLES,
            transition=transition,
            verdicts=queries.verdicts(store, task_id, ROWS),
            rollouts=queries.rollouts(store, row.run, task_id=task_id, limit=ROWS),
            rows=ROWS,
        )
    )
