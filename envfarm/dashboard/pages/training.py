"""Training runs: the list, and one run's curves."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from envfarm.telemetry.training import TRAIN, read_metrics, training_runs

from ..access import HomeDep, training_named
from ..templating import render
from ..training import TrainingView, training_view

router = APIRouter()

STEPS_SHOWN = 50


@router.get("/training")
def training_list(home: HomeDep) -> HTMLResponse:
    """Every run, by name."""
    return HTMLResponse(render("trainings.html", runs=training_runs(home)))


@router.get("/training/{name}")
def training_page(home: HomeDep, name: str) -> HTMLResponse:
    """Curves, newest steps, and what became of the episodes."""
    view = training_view(training_named(home, name), read_metrics(home / TRAIN / name)[0], STEPS_SHOWN)
    return HTMLResponse(render("training.html", view=view, poll=_poll(view)))


@router.get("/training/{name}/progress")
def training_progress(home: HomeDep, name: str) -> HTMLResponse:
    """The part of a run's page that changes while the run is active."""
    view = training_view(training_named(home, name), read_metrics(home / TRAIN / name)[0], STEPS_SHOWN)
    return HTMLResponse(render("curves.html", view=view, poll=_poll(view)))


def _poll(view: TrainingView) -> bool:
    return not view.run.state.ended
