"""One environment: how its recipe came about and what is installed in it."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from envfarm.store import queries

from ..access import StoreDep, found
from ..templating import render

router = APIRouter()


@router.get("/environments/{digest}")
def environment_page(store: StoreDep, digest: str) -> HTMLResponse:
    """An environment and its recipe."""
    environment = found(queries.environment(store, digest), "environment", digest)
    recipe = queries.recipe(store, environment.recipe_digest)
    return HTMLResponse(render("environment.html", environment=environment, recipe=recipe))
