"""What requests reach: the store, the blobs and the home of the application they arrive at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Request

from envfarm.core.errors import EnvfarmError, Reason
from envfarm.core.ports import BlobStore
from envfarm.store import Store, queries
from envfarm.store.rows import RunRow
from envfarm.telemetry.training import TrainingRun, training_run

T = TypeVar("T")


def _store(request: Request) -> Store:
    return request.app.state.store


def _blobs(request: Request) -> BlobStore:
    return request.app.state.blobs


def _home(request: Request) -> Path:
    return request.app.state.home


StoreDep = Annotated[Store, Depends(_store)]
BlobsDep = Annotated[BlobStore, Depends(_blobs)]
HomeDep = Annotated[Path, Depends(_home)]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="Rows to skip.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Most rows to answer with.")]


class NotFound(EnvfarmError):
    """The address names something that the store does not have."""

    boundary = "api"


def found(value: T | None, what: str, name: str, remedy: str = "") -> T:
    """``value``, or ``NotFound``."""
    if value is None:
        raise NotFound(f"There is no {what} '{name}'.", reason=Reason.not_found, phase="read", remedy=remedy)
    return value


def run_named(store: Store, run: str) -> RunRow:
    """A run. Raises ``NotFound``."""
    return found(next((row for row in queries.runs(store) if row.id == run), None), "run", run)


def training_named(home: Path, name: str) -> TrainingRun:
    """A training run. Raises ``NotFound``."""
    return found(training_run(home, name), "training run", name)
