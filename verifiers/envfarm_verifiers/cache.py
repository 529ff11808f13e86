"""Verdicts and calibrations kept: each distinct submission really runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from envfarm.core.base import Noun, digest_json, short
from envfarm.core.durable import write_file
from envfarm.core.verdict import Verdict

from .calibration import Calibration


class VerdictCache(Protocol):
    """Verdicts by (task digest, submission digest, grader version), calibrations by (task digest, grader version).

    Calls block.
    """

    def get(self, task_digest: str, submission_digest: str, grader: str) -> Verdict | None: ...

    def put(self, verdict: Verdict) -> None: ...

    def get_calibration(self, task_digest: str, grader: str) -> Calibration | None: ...

    def put_calibration(self, calibration: Calibration) -> None: ...


class MemoryCache:
    """Lives as long as its process."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, str, str], Verdict] = {}
        self._calibrations: dict[tuple[str, str], Calibration] = {}

    def get(self, task_digest: str, submission_digest: str, grader: str) -> Verdict | None:
        return self._verdicts.get((task_digest, submission_digest, grader))

    def put(self, verdict: Verdict) -> None:
        self._verdicts[verdict.task_digest, verdict.submission_digest, verdict.grader] = verdict

    def get_calibration(self, task_digest: str, grader: str) -> Calibration | None:
        return self._calibrations.get((task_digest, grader))

    def put_calibration(self, calibration: Calibration) -> None:
        self._calibrations[calibration.task_digest, calibration.grader] = calibration


class FolderCache:
    """One JSON file each, below a folder. Safe for several processes: files appear whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, task_digest: str, submission_digest: str, grader: str) -> Verdict | None:
        data = _read(self._path("verdicts", task_digest, submission_digest, grader))
        return None if data is None else Verdict.model_validate_json(data)

    def put(self, verdict: Verdict) -> None:
        path = self._path("verdicts", verdict.task_digest, verdict.submission_digest, verdict.grader)
        _keep(path, verdict)

    def get_calibration(self, task_digest: str, grader: str) -> Calibration | None:
        data = _read(self._path("calibrations", task_digest, grader))
        return None if data is None else Calibration.model_validate_json(data)

    def put_calibration(self, calibration: Calibration) -> None:
        path = self._path("calibrations", calibration.task_digest, calibration.grader)
        _keep(path, calibration)

    def _path(self, kind: str, *key: str) -> Path:
        name = short(digest_json(list(key)), 40)
        return self._folder / kind / name[:2] / f"{name}.json"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _keep(path: Path, found: Noun) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, found.model_dump_json().encode())
