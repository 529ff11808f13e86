"""Environments and recipes."""

from __future__ import annotations

from fastapi import APIRouter

from envfarm.core.environment import Environment, Recipe
from envfarm.dashboard.access import StoreDep, found
from envfarm.store import queries

router = APIRouter(tags=["environments"])


@router.get("/environments/{digest}")
def environment(store: StoreDep, digest: str) -> Environment:
    """A built environment."""
    return found(queries.environment(store, digest), "environment", digest)


@router.get("/recipes/{digest}")
def recipe(store: StoreDep, digest: str) -> Recipe:
    """How an environment was built."""
    return found(queries.recipe(store, digest), "recipe", digest)
