"""Runs: the list, one run's funnel, its events, repositories, tasks and candidates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from envfarm.core.ports import StageOutcome
from envfarm.store import queries

from ..access import Offset, StoreDep, found, run_named
from ..templating import render
from ..views import Overview, RunState, overview, repositories, summary

router = APIRouter()

RUNS_SHOWN = 20
REPOS_SHOWN = 20
"""On a run's own page; the others are on the page of repositories."""
ROWS = 100
TASKS = 50

Filter = Annotated[str, Query(max_length=300)]


@router.get("/")
def run_list(store: StoreDep, offset: Offset = 0) -> HTMLResponse:
    """Every run, newest first."""
    rows = queries.runs(store)
    shown = [summary(store, row) for row in rows[offset : offset + RUNS_SHOWN]]
    return HTMLResponse(render("runs.html", runs=shown, total=len(rows), offset=offset, size=RUNS_SHOWN))


@router.get("/runs/{run}")
def run_page(store: StoreDep, run: str, source: Filter = "", repo: Filter = "") -> HTMLResponse:
    """The funnel and what it is made of."""
    view = overview(store, run_named(store, run), source, repo)
    repos, count = repositories(store, run, REPOS_SHOWN)
    return HTMLResponse(render("run.html", view=view, repos=repos, repo_count=count, poll=_poll(view)))


@router.get("/runs/{run}/progress")
def run_progress(store: StoreDep, run: str, source: Filter = "", repo: Filter = "") -> HTMLResponse:
    """The part of a run's page that changes while the run is active."""
    view = overview(store, run_named(store, run), source, repo)
    return HTMLResponse(render("progress.html", view=view, poll=_poll(view)))


@router.get("/runs/{run}/repositories")
def repository_page(store: StoreDep, run: str, offset: Offset = 0) -> HTMLResponse:
    """Every repository of a run."""
    repos, total = repositories(store, run_named(store, run).id, ROWS, offset)
    return HTMLResponse(render("repositories.html", run=run, repos=repos, total=total, offset=offset, size=ROWS))


@router.get("/runs/{run}/events")
def event_page(
    store: StoreDep,
    run: str,
    stage: Filter = "",
    outcome: Filter = "",
    reason: Filter = "",
    repo: Filter = "",
    before: Annotated[int | None, Query(ge=1)] = None,
) -> HTMLResponse:
    """Ended items, filtered, newest first."""
    run_named(store, run)
    chosen = {"stage": stage, "outcome": outcome, "reason": reason, "repo": repo}
    # one more than the page shows: whether there is another
    rows = queries.events(
        store, run, stage or None, outcome or None, reason or None, repo or None, ROWS + 1, before=before
    )  # fmt: skip
    counts = [
        row
        for row in queries.reasons(store, run, stage or None, repo or None)
        if outcome in ("", row.outcome) and reason in ("", row.reason)
    ]
    every = queries.reasons(store, run)
    return HTMLResponse(
        render(
            "events.html",
            run=run,
            events=rows[:ROWS],
            total=sum(row.n for row in counts),
            before=before,
            older=rows[ROWS - 1].id if len(rows) > ROWS else None,
            chosen=chosen,
            stages=sorted({row.stage for row in every}),
            reasons=sorted({row.reason for row in every if row.reason}),
            outcomes=list(StageOutcome),
        )
    )


@router.get("/runs/{run}/tasks")
def task_list(
    store: StoreDep, run: str, repo: Filter = "", kind: Filter = "", state: Filter = "", offset: Offset = 0
) -> HTMLResponse:
    """Tasks, filtered, by id."""
    run_named(store, run)
    rows = queries.tasks(store, run, repo or None, kind or None, state or None, limit=TASKS + 1, offset=offset)
    return HTMLResponse(
        render(
            "tasks.html",
            run=run,
            rows=rows[:TASKS],
            offset=offset,
            size=TASKS,
            more=len(rows) > TASKS,
            chosen={"repo": repo, "kind": kind, "state": state},
        )
    )


@router.get("/runs/{run}/candidates/{candidate_id}")
def candidate_page(store: StoreDep, run: str, candidate_id: str) -> HTMLResponse:
    """A candidate: what was read of it, before any of it was built."""
    candidate = found(queries.candidate(store, candidate_id), "candidate", candidate_id)
    drafted = queries.task_row(store, candidate_id, run) is not None
    return HTMLResponse(render("candidate.html", run=run, candidate=candidate, drafted=drafted))


def _poll(view: Overview) -> bool:
    return view.state is not RunState.finished
