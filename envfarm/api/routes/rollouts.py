"""Rollouts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from envfarm.core.rollout import Rollout
from envfarm.dashboard.access import Limit, Offset, StoreDep, found, run_named
from envfarm.store import queries

router = APIRouter(tags=["rollouts"])

Filter = Annotated[str | None, Query(max_length=300)]


@router.get("/runs/{run}/rollouts")
def rollouts(
    store: StoreDep,
    run: str,
    task: Filter = None,
    policy: Filter = None,
    outcome: Filter = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> list[Rollout]:
    """Rollouts of a run, newest first."""
    run_named(store, run)
    return queries.rollouts(store, run, task, policy, outcome, limit, offset)


@router.get("/rollouts/{rollout_id}")
def rollout(store: StoreDep, rollout_id: str) -> Rollout:
    """A rollout with its turns."""
    return found(queries.rollout(store, rollout_id), "rollout", rollout_id)
