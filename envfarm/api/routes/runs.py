"""Runs, their events, repositories, tasks and candidates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from envfarm.core.ports import StageOutcome
from envfarm.core.source import Candidate
from envfarm.dashboard import views
from envfarm.dashboard.access import Limit, Offset, StoreDep, found, run_named
from envfarm.store import queries
from envfarm.store.rows import EventRow, RunRow, TaskRow

router = APIRouter(tags=["runs"])

Filter = Annotated[str | None, Query(max_length=300)]


@router.get("/runs")
def runs(store: StoreDep, limit: Limit = 100, offset: Offset = 0) -> list[RunRow]:
    """All runs, newest first."""
    return queries.runs(store)[offset : offset + limit]


@router.get("/runs/{run}")
def run(store: StoreDep, run: str, source: Filter = None, repo: Filter = None) -> views.Overview:
    """The funnel, environment success and published tasks of a run."""
    return views.overview(store, run_named(store, run), source or "", repo or "")


@router.get("/runs/{run}/repositories")
def repositories(store: StoreDep, run: str, limit: Limit = 100, offset: Offset = 0) -> list[views.RepoLine]:
    """Repositories of a run, most published tasks first."""
    return views.repositories(store, run_named(store, run).id, limit, offset)[0]


@router.get("/runs/{run}/events")
def events(
    store: StoreDep,
    run: str,
    stage: Filter = None,
    outcome: StageOutcome | None = None,
    reason: Filter = None,
    repo: Filter = None,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=1, description="Id of the last event seen.")] = None,
) -> list[EventRow]:
    """Ended items, newest first. For the next page give the last ``id`` as ``before``."""
    run_named(store, run)
    return queries.events(store, run, stage, outcome, reason, repo, limit, before=before)


@router.get("/runs/{run}/tasks")
def tasks(
    store: StoreDep,
    run: str,
    repo: Filter = None,
    kind: Filter = None,
    state: Filter = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> list[TaskRow]:
    """Tasks of a run, by id."""
    run_named(store, run)
    return queries.tasks(store, run, repo, kind, state, limit, offset)


@router.get("/candidates/{candidate_id}")
def candidate(store: StoreDep, candidate_id: str) -> Candidate:
    """A candidate, of whichever run has it."""
    return found(queries.candidate(store, candidate_id), "candidate", candidate_id)
