"""Verdicts and calibrations kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from envfarm_verifiers.cache import FolderCache, MemoryCache
from envfarm_verifiers.calibration import Calibration

from envfarm.core.verdict import Outcome, Verdict

VERDICT = Verdict(
    task_id="t",
    task_digest="sha256:a",
    submission_digest="sha256:b",
    grader="pytest-1",
    outcome=Outcome.failed,
    evidence={"failed": ["x::y[\u00fc]"]},
    graded_at=datetime(2026, 1, 1, tzinfo=UTC),
)
CALIBRATION = Calibration(task_digest="sha256:a", grader="pytest-1", sites={"f": {"0:constant": (0, 2)}})


@pytest.fixture(params=["memory", "folder"])
def cache(request, tmp_path: Path):
    return MemoryCache() if request.param == "memory" else FolderCache(tmp_path / "cache")


def test_gives_back_what_was_put_by_its_whole_key(cache):
    assert cache.get("sha256:a", "sha256:b", "pytest-1") is None
    assert cache.get_calibration("sha256:a", "pytest-1") is None
    cache.put(VERDICT)
    cache.put_calibration(CALIBRATION)
    assert cache.get("sha256:a", "sha256:b", "pytest-1") == VERDICT
    assert cache.get("sha256:a", "sha256:b", "pytest-2") is None
    assert cache.get("sha256:a", "sha256:c", "pytest-1") is None
    assert cache.get_calibration("sha256:a", "pytest-1") == CALIBRATION
    assert cache.get_calibration("sha256:b", "pytest-1") is None


def test_the_newest_answer_counts(cache):
    cache.put(VERDICT)
    newer = VERDICT.model_copy(update={"outcome": Outcome.passed})
    cache.put(newer)
    assert cache.get("sha256:a", "sha256:b", "pytest-1") == newer


def test_a_folder_is_shared(tmp_path: Path):
    FolderCache(tmp_path).put(VERDICT)
    assert FolderCache(tmp_path).get("sha256:a", "sha256:b", "pytest-1") == VERDICT
    assert not list(tmp_path.rglob(".new-*"))
