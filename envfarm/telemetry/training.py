"""Training runs of a home, a folder each below ``train/``: who works on one, how far it is, what it measured.

Pages and commands read here, so that neither needs torch. The trainer and the jobs write.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import orjson
from pydantic import ValidationError

from envfarm.core.base import Noun
from envfarm.core.durable import write_file
from envfarm.core.errors import FailureRecord, Reason, StoreError
from envfarm.core.process import Process

TRAIN = "train"
"""The folder below a home that holds a folder for each run."""
CONFIG, JOB, STATUS, METRICS, LOG = "config.json", "job.json", "status.json", "metrics.jsonl", "log.txt"

T = TypeVar("T", bound=Noun)


class State(StrEnum):
    """Of a run. Its own ``status.json`` never says ``submitted`` or ``lost``: those are derived."""

    submitted = "submitted"
    """Sent off, and nothing heard of it yet."""
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"
    """Its process is gone without a last word: killed, or its machine went down. It can be resumed."""

    @property
    def ended(self) -> bool:
        """Whether nobody works on it any more."""
        return self not in (State.submitted, State.running)


class Where(StrEnum):
    """Where a run was sent."""

    here = "here"
    """It belongs to the terminal of whoever started it."""
    local = "local"
    """A process of its own session on this machine."""
    ray = "ray"
    """A job on a Ray cluster."""


class Job(Noun):
    """``job.json``: who works on a run, or was asked to."""

    on: Where = Where.here
    actors: bool = False
    """Rollouts run in a Ray actor, apart from training."""
    address: str = ""
    """Of the Ray head's Jobs API."""
    submission: str = ""
    """The job's id there."""
    host: str = ""
    """The machine that ``process`` is one of; empty until it is known."""
    process: Process = Process()
    """Who works on it; empty until it is known."""
    cancelled: bool = False
    """Somebody asked it to end."""


class Status(Noun):
    """``status.json``: what a run last said of itself."""

    state: State
    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    version: int
    """Of the policy."""
    process: Process
    """Who writes it."""
    note: str = ""
    """What happened on resume."""
    error: FailureRecord | None = None
    """Of a failed run."""

    @property
    def alive(self) -> bool:
        """Whether somebody works on it."""
        return self.state is State.running and self.process.alive


class TrainingRun(Noun):
    """A run as its folder tells it."""

    name: str
    state: State
    job: Job
    status: Status | None
    """None before it has said anything."""


def training_runs(home: Path) -> list[TrainingRun]:
    """Every run of a home, by name. Raises ``StoreError`` where a file of one cannot be read."""
    folders = sorted(path.parent for path in (home / TRAIN).glob(f"*/{JOB}"))
    return [_run(folder) for folder in folders]


def training_run(home: Path, name: str) -> TrainingRun | None:
    """The run of that name. Raises as :func:`training_runs`."""
    folder = home / TRAIN / name
    known = Path(name).name == name and (folder / JOB).is_file()
    return _run(folder) if known else None


def derive(job: Job, status: Status | None, host: str) -> State:
    """How a run stands, as seen from the machine ``host``: only there can its process be asked for."""
    known = job.process.pid > 0
    gone = known and job.host == host and not job.process.alive
    if status is not None and status.process == job.process and status.state.ended:
        return status.state
    if gone:
        return State.cancelled if job.cancelled else State.lost
    return State.running if status is not None and known and status.process == job.process else State.submitted


def read_metrics(folder: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Records of the complete lines from byte ``offset`` on, and where the next ones will begin. Where the file was cut
    back meanwhile (a resumed run takes steps again) that is its new end; where it has grown again beyond ``offset``,
    which then lies inside a line, that line is the first."""
    path = folder / METRICS
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        offset = _line_start(file, min(offset, file.seek(0, 2)))
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    try:
        return [orjson.loads(line) for line in whole.splitlines()], offset + len(whole)
    except orjson.JSONDecodeError as error:  # the boundary to a damaged disk
        raise _unreadable(path, error) from error


def masked_episodes(record: Mapping[str, Any]) -> int:
    """Of a step's record: episodes that training did not see, those that no grader could judge among them."""
    return sum(record["masked"].values()) + record["unscorable"]


def _line_start(file: BinaryIO, offset: int) -> int:
    """Where the line that ``offset`` lies in begins; all before it is read only where that is somewhere else."""
    file.seek(max(offset - 1, 0))
    if offset == 0 or file.read(1) == b"\n":
        return offset
    file.seek(0)
    return file.read(offset).rfind(b"\n") + 1


def write_job(folder: Path, job: Job) -> None:
    """Replace ``job.json``, all or nothing. Raises ``OSError``."""
    write_file(folder / JOB, (job.model_dump_json(indent=1) + "\n").encode())


def _run(folder: Path) -> TrainingRun:
    job, status = _read(folder / JOB, Job) or Job(), _read(folder / STATUS, Status)
    return TrainingRun(name=folder.name, state=derive(job, status, socket.gethostname()), job=job, status=status)


def _read(path: Path, kind: type[T]) -> T | None:
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:  # the boundary to a damaged disk
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is damaged.",
        reason=Reason.blob_corrupt,
        phase="read",
        remedy="Put it back, or remove the folder.",
        detail=str(error),
    )
