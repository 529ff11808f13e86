"""Training runs and what they measured."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from envfarm.dashboard.access import HomeDep, Limit, Offset, training_named
from envfarm.telemetry.training import TRAIN, TrainingRun, read_metrics, training_runs

router = APIRouter(tags=["training"])


@router.get("/training")
def runs(home: HomeDep) -> list[TrainingRun]:
    """All training runs, by name."""
    return training_runs(home)


@router.get("/training/{name}")
def run(home: HomeDep, name: str) -> TrainingRun:
    """How a run stands."""
    return training_named(home, name)


@router.get("/training/{name}/metrics")
def metrics(home: HomeDep, name: str, limit: Limit = 100, offset: Offset = 0) -> list[dict[str, Any]]:
    """A record for each step, in their order."""
    training_named(home, name)
    return read_metrics(home / TRAIN / name)[0][offset : offset + limit]
