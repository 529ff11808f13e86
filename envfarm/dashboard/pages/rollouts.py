"""One rollout: its turns, its submission and its verdict."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from envfarm.store import queries

from ..access import StoreDep, found
from ..diffview import diff_lines
from ..templating import render

router = APIRouter()

TURN_CHARS = 20_000
"""Of a longer turn a page shows only this much."""


@router.get("/rollouts/{rollout_id}")
def rollout_page(store: StoreDep, rollout_id: str) -> HTMLResponse:
    """One episode."""
    rollout = found(queries.rollout(store, rollout_id), "rollout", rollout_id)
    patch = rollout.submission.patch if rollout.submission else ""
    lines = list(diff_lines(patch[: 256 << 10]))
    return HTMLResponse(render("rollout.html", rollout=rollout, patch_lines=lines, turn_chars=TURN_CHARS))
