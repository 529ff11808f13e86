"""The grader's memory: verdicts in the store, calibrations in files beside it."""

from __future__ import annotations

from pathlib import Path

from envfarm_verifiers.cache import FolderCache
from envfarm_verifiers.calibration import Calibration

from envfarm.core.verdict import Verdict
from envfarm.store import Store, queries


class StoredVerdicts:
    """Satisfies ``envfarm_verifiers.cache.VerdictCache`` over the store."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._calibrations = FolderCache(folder)

    def get(self, task_digest: str, submission_digest: str, grader: str) -> Verdict | None:
        """The verdict that stands, marked as cached."""
        return queries.verdict_for(self._store, task_digest, submission_digest, grader)

    def put(self, verdict: Verdict) -> None:
        """Keep a verdict; the first that scores stands."""
        with self._store.begin() as tx:
            tx.put_verdict(verdict)

    def get_calibration(self, task_digest: str, grader: str) -> Calibration | None:
        """What holds for a task under a grader version."""
        return self._calibrations.get_calibration(task_digest, grader)

    def put_calibration(self, calibration: Calibration) -> None:
        """Keep a calibration."""
        self._calibrations.put_calibration(calibration)


class FreshVerdicts(StoredVerdicts):
    """Knows no verdict, so that every submission really runs; calibrations are shared."""

    def get(self, task_digest: str, submission_digest: str, grader: str) -> Verdict | None:
        """Nothing."""
        return None
