"""What a run tells of itself: ``metrics.jsonl`` (the source of truth), TensorBoard beside it, and ``status.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from envfarm.core.durable import write_file
from envfarm.core.errors import Reason, TrainerError
from envfarm.core.failpoints import failpoint
from envfarm.telemetry.training import METRICS, STATUS, Status

BOARD = "tensorboard"


class Metrics:
    """The log of a run, one object for each step. ``cursor`` bytes of it (and steps before ``step``) are kept, and what
    a killed process wrote after its last checkpoint is cut off: those steps are taken again."""

    def __init__(self, folder: Path, *, cursor: int = 0, step: int = 0) -> None:
        self._path = folder / METRICS
        # Unbuffered: what a full disk has refused must not be tried again when the file is closed.
        self._file = self._path.open("ab", buffering=0)
        if self._file.tell() < cursor:
            raise TrainerError(
                f"{self._path} has {self._file.tell()} bytes, and the checkpoint counts on {cursor}.",
                reason=Reason.checkpoint_mismatch,
                phase="resume",
                remedy="Put the run's own metrics back, or start a new run.",
            )
        self._file.truncate(cursor)
        self._board = SummaryWriter(str(folder / BOARD), purge_step=step)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append the record of a step. Raises ``TrainerError`` (disk_full, checkpoint_unwritable)."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
            failpoint("train.metrics.after_append")
            for name, value in _flat(record):
                self._board.add_scalar(name, value, record["step"])
        except OSError as error:
            raise unwritable(self._path, error) from error

    def sync(self) -> int:
        """Flush to the disk; the cursor that a checkpoint holds. Raises as :meth:`log`."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self._path, error) from error
        return self._file.tell()

    def close(self) -> None:
        """No more records."""
        self._file.close()
        with suppress(OSError):  # cleanup: a full disk has been told by whoever met it first
            self._board.close()


def write_status(folder: Path, status: Status) -> None:
    """Replace the status. Raises as :meth:`Metrics.log`."""
    replace_text(folder / STATUS, status.model_dump_json(indent=1) + "\n")


def read_status(folder: Path) -> Status | None:
    """The status; None before there is one."""
    path = folder / STATUS
    return Status.model_validate_json(path.read_text("utf-8")) if path.exists() else None


def replace_text(path: Path, text: str) -> None:
    """Write a small file, all or nothing. Raises as :meth:`Metrics.log`."""
    try:
        write_file(path, text.encode(), before_rename=f"train.{path.name}.before_rename")
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> TrainerError:
    """What a failed write to ``path`` is called: a full disk, or anything else."""
    full = "No space left" in str(error)
    return TrainerError(
        f"{path} cannot be written: {'the disk is full' if full else error}.",
        reason=Reason.disk_full if full else Reason.checkpoint_unwritable,
        phase="save",
        remedy="Make room and resume: what was saved before is untouched.",
    )


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers by name, with a slash for each level; positions of a list count from 1."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, (list, tuple)):
            yield from _flat({str(place): each for place, each in enumerate(value, 1)}, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            yield prefix + name, float(value)
