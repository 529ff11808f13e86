"""The one place that makes and changes the runs of a home. Light: a command that only looks needs no torch."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envfarm.core.errors import ConfigError, Reason, TrainerError
from envfarm.core.process import own_process
from envfarm.telemetry.training import CONFIG, TRAIN, Job, TrainingRun, training_run, write_job

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def create(home: Path, name: str, config: Mapping[str, Any], job: Job, *, resume: bool = False) -> Path:
    """The folder of a run, with the resolved ``config`` and who is to work on it.

    Raises ``ConfigError`` for a name that makes no folder, a run that is there already and is not to be resumed, and
    one that somebody works on; ``TrainerError`` (checkpoint_unwritable) where the folder cannot be made.
    """
    if not _NAME.fullmatch(name):
        raise _refused(f"'{name}' cannot name a run", "Use letters, digits, '.', '_' and '-', a letter or digit first.")
    run = training_run(home, name)
    if run is not None and not resume:
        raise _refused(f"There is a run '{name}' already", "Resume it, or give another --name.")
    if run is not None:
        check_idle(run)
    folder = home / TRAIN / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        write_job(folder, job)
    except OSError as error:  # the boundary to the file system
        raise TrainerError(
            f"{folder} cannot be written: {(error.strerror or str(error)).lower()}.",
            reason=Reason.checkpoint_unwritable,
            phase="submit",
            remedy="Name another place with --home.",
        ) from error
    return folder


def find(home: Path, name: str) -> TrainingRun:
    """A run. Raises ``ConfigError`` (not_found)."""
    run = training_run(home, name)
    if run is None:
        raise ConfigError(
            f"There is no training run '{name}'.",
            reason=Reason.not_found,
            phase="train",
            remedy="'envfarm train ls' lists those of this home.",
        )
    return run


def config_of(home: Path, name: str) -> dict[str, Any]:
    """The resolved configuration that the run was made with."""
    return json.loads((home / TRAIN / name / CONFIG).read_text("utf-8"))


def claim(home: Path, name: str) -> None:
    """This process works on the run from now on. Raises ``ConfigError`` if another one does."""
    run = find(home, name)
    own = own_process()
    if not run.state.ended and run.job.process.pid not in (0, own.pid):
        raise _refused(f"Process {run.job.process.pid} works on the run '{name}'", "Cancel that one first.")
    update = {"host": socket.gethostname(), "process": own}
    write_job(home / TRAIN / name, run.job.model_copy(update=update))


def mark_cancelled(home: Path, name: str) -> None:
    """Its end, even one without a last word, is on purpose."""
    write_job(home / TRAIN / name, find(home, name).job.model_copy(update={"cancelled": True}))


def check_idle(run: TrainingRun) -> None:
    """Raises ``ConfigError`` where somebody works on it, or was sent to. A run that no process ever took up is idle."""
    if not run.state.ended and (run.job.process.pid or run.job.submission):
        raise _refused(f"The run '{run.name}' is {run.state} already", "Cancel it first.")


def _refused(why: str, remedy: str) -> ConfigError:
    return ConfigError(f"{why}.", reason=Reason.usage, phase="train", remedy=remedy)
