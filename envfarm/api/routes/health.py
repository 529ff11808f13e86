"""Whether the server can answer from its store."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from envfarm import __version__
from envfarm.dashboard.access import StoreDep
from envfarm.store import queries

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The store was read a moment ago."""

    status: str
    version: str


@router.get("/healthz")
def health(store: StoreDep) -> Health:
    """200 when the store answers, 503 when it does not."""
    queries.runs(store)
    return Health(status="ok", version=__version__)
