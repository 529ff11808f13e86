"""Submissions to verdicts, in real boxes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from envfarm_verifiers.cache import FolderCache
from envfarm_verifiers.grade import PytestGrader

from envfarm.core.box import Limits
from envfarm.core.environment import Environment, Layer, TestCommand
from envfarm.core.verdict import Outcome

from .grading_fixtures import COMMAND, FAIL_TO_PASS, PASS_TO_PASS, Grading, grading, world
from .grading_world import BROKEN, FIXED, GOLD, TESTS, TREE, diff, submission, tar

__all__ = ["grading", "world"]
pytestmark = pytest.mark.asyncio(loop_scope="module")
SOURCE = "src/clock/__init__.py"


async def grade(grading: Grading, patch: str, task=None):
    task = task or grading.task
    return await grading.grader.grade(task, grading.world.environment, submission(task, patch))


def change(source: str) -> str:
    return diff({SOURCE: BROKEN}, {SOURCE: source})


async def test_gold_passes_every_time_and_leaves_no_box(grading: Grading):
    for number in range(4):
        verdict = await grade(grading, GOLD + "\n" * number)
        assert (verdict.outcome, verdict.reason) == (Outcome.passed, "all_passed"), verdict.evidence
        assert verdict.report is not None
        assert set(verdict.report.statuses) == {*FAIL_TO_PASS, *PASS_TO_PASS}
        assert verdict.evidence["canaries"] >= 5 and verdict.evidence["twins"] >= 4
    assert await grading.provider.list("envfarm-grade") == []


async def test_another_honest_fix_passes(grading: Grading):
    other = BROKEN.replace(
        "    total = 0\n    for part in text.split():\n        total = int(part[:-1]) * UNITS[part[-1]]\n",
        "    parts = text.split()\n    if not parts:\n        raise ValueError('empty duration')\n"
        "    total = sum(int(part[:-1]) * UNITS[part[-1]] for part in parts)\n",
    )
    assert (await grade(grading, change(other))).outcome is Outcome.passed


async def test_nothing_and_half_a_fix_fail(grading: Grading):
    verdict = await grade(grading, "")
    assert (verdict.outcome, verdict.reason) == (Outcome.failed, "tests_failed")
    assert set(verdict.evidence["failed"]) == set(FAIL_TO_PASS)
    half = await grade(grading, change(FIXED.replace('raise ValueError("empty duration")', "pass")))
    assert half.evidence["failed"] == ["tests/test_clock.py::test_empty"]
    breaking = await grade(grading, change(FIXED.replace("return text.split()", "return []")))
    assert (
        breaking.outcome is Outcome.failed and "tests/test_clock.py::test_words[a b-2]" in breaking.evidence["failed"]
    )


async def test_changes_outside_the_sources_are_dropped_and_recorded(grading: Grading):
    extra = diff({}, {"tests/test_clock.py": "def test_sum(): pass\n", "notes.md": "done\n"})
    verdict = await grade(grading, GOLD + extra)
    assert verdict.outcome is Outcome.passed
    assert verdict.evidence["kept"] == [SOURCE] and set(verdict.evidence["dropped"]) == {
        "tests/test_clock.py",
        "notes.md",
    }


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def broken(:\n", "tests_missing"),
        ("import time\ntime.sleep(1000)\n", "timed_out"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "crashed"),
        ("raise RuntimeError\n", "no_tests"),
    ],
)
async def test_what_a_subject_breaks_is_its_failure(grading: Grading, source: str, reason: str):
    grader = PytestGrader(
        grading.provider,
        grading.world.blobs,
        lambda environment: TestCommand(timeout_sec=1 if "time" in source else 60),
    )
    slow = reason == "timed_out"
    # Its own calibration must not run under the one-second limit.
    known = await grading.grader.calibrate(grading.task, grading.world.environment)
    grader._cache.put_calibration(known)
    if slow:
        source = BROKEN + source
    verdict = await grader.grade(grading.task, grading.world.environment, submission(grading.task, change(source)))
    assert verdict.outcome is Outcome.failed
    assert verdict.reason in (reason, "no_tests"), verdict.evidence


async def test_running_out_of_memory_is_its_failure(grading: Grading):
    grader = PytestGrader(
        grading.provider, grading.world.blobs, lambda environment: COMMAND, limits=Limits(memory_mb=200)
    )
    hungry = BROKEN + "\nHELD = [bytearray(1 << 20) for _ in range(2000)]\n"
    verdict = await grader.grade(grading.task, grading.world.environment, submission(grading.task, change(hungry)))
    assert verdict.outcome is Outcome.failed, verdict


@pytest.mark.parametrize(
    ("patch", "outcome", "reason"),
    [
        ("make the tests pass", Outcome.failed, "patch_refused"),
        (GOLD.replace("total = 0", "total = 77"), Outcome.failed, "patch_does_not_apply"),
        (GOLD.replace("src/clock", "../clock"), Outcome.tampered, "patch_refused"),
        (GOLD.replace("src/clock", "/etc/clock"), Outcome.tampered, "patch_refused"),
        ("diff --git a/src/l b/src/l\nnew file mode 120000\n--- /dev/null\n+++ b/src/l\n@@ -0,0 +1 @@\n+/etc/passwd\n",
         Outcome.failed, "patch_refused"),
    ],
)  # fmt: skip
async def test_patches_that_cannot_be_graded(grading: Grading, patch: str, outcome: Outcome, reason: str):
    verdict = await grade(grading, patch)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert verdict.evidence["detail"]


async def test_a_file_where_the_tests_need_a_folder_is_the_submissions_failure(grading: Grading):
    tree = {**TREE, "src/clock/checks/__init__.py": "y\n"}
    tests = {"src/clock/checks/test_deep.py": "from clock import words\ndef test_deep(): assert words('a') == ['b']\n"}
    task = grading.world.task(tree=tree, tests=tests, test_files=("src/clock/checks/test_deep.py",), id="toy__clock-2")
    task = grading.with_tests(task, ("src/clock/checks/test_deep.py::test_deep",))
    patch = diff({"src/clock/checks/__init__.py": "y\n"}, {}) + diff({}, {"src/clock/checks": "x\n"})
    known = await grading.grader.calibrate(grading.task, grading.world.environment)
    grading.grader._cache.put_calibration(
        known.model_copy(update={"task_digest": task.digest, "sites": {}, "kinds": ()})
    )
    verdict = await grade(grading, patch, task)
    assert (verdict.outcome, verdict.reason) == (Outcome.failed, "patch_does_not_apply")


async def test_a_box_that_cannot_be_started_is_unscorable_and_not_kept(grading: Grading):
    broken = grading.world.environment.model_copy(update={"layers": (Layer(source="gone", target="/env"),)})
    assert broken.digest == grading.world.environment.digest
    grader = PytestGrader(grading.provider, grading.world.blobs, lambda environment: COMMAND)
    for _ in range(2):
        verdict = await grader.grade(grading.task, broken, submission(grading.task, GOLD))
        assert verdict.outcome is Outcome.unscorable and not verdict.cached
        assert verdict.evidence["failure"]["boundary"] == "provider"
    assert grader.hits == {"hit": 0, "miss": 2}


async def test_each_submission_runs_once(grading: Grading, tmp_path: Path):
    grader = PytestGrader(grading.provider, grading.world.blobs, lambda environment: COMMAND, FolderCache(tmp_path))
    environment: Environment = grading.world.environment
    both = await asyncio.gather(
        *(grader.grade(grading.task, environment, submission(grading.task, "")) for _ in range(3))
    )
    assert sorted(verdict.cached for verdict in both) == [False, True, True]
    assert len({verdict.digest for verdict in both}) == 1 and grader.hits == {"hit": 2, "miss": 1}
    again = PytestGrader(grading.provider, grading.world.blobs, lambda environment: COMMAND, FolderCache(tmp_path))
    assert (await again.grade(grading.task, environment, submission(grading.task, ""))).cached


async def test_a_task_whose_gold_fails_cannot_be_graded(grading: Grading):
    task = grading.world.task(
        id="toy__clock-3", gold_patch=grading.world.blobs.put(change(BROKEN + "\nX = 1\n").encode())
    )
    task = grading.with_tests(task, FAIL_TO_PASS)
    verdict = await grade(grading, GOLD, task)
    assert (verdict.outcome, verdict.reason) == (Outcome.unscorable, "suite_crash")


async def test_a_test_that_does_not_bear_its_own_repetition_gets_no_twins(grading: Grading):
    # the first of them to run leaves something behind that the others stumble over
    once = (
        "import clock\nfrom clock import parse\n\n"
        "def test_once():\n    assert not hasattr(clock, 'been')\n    clock.been = True\n"
        "    assert parse('1m 1s').seconds == 61\n"
    )
    task = grading.world.task(tests={**TESTS, "tests/test_once.py": once}, id="toy__clock-5")
    task = grading.with_tests(task, (*FAIL_TO_PASS, "tests/test_once.py::test_once"), PASS_TO_PASS)
    calibration = await grading.grader.calibrate(task, grading.world.environment)
    assert calibration.sites and "tests/test_once.py::test_once" not in calibration.sites
    for number in range(4):
        assert (await grade(grading, GOLD + "\n" * number, task)).outcome is Outcome.passed


async def test_removed_tests_are_gone_and_hidden_ones_replace_what_lies_there(grading: Grading):
    tree = {**TREE, "tests/test_gone.py": "def test_gone(): assert False\n"}
    task = grading.world.task(tree=tree, removed_tests=("tests/test_gone.py",), id="toy__clock-4")
    task = grading.with_tests(task, FAIL_TO_PASS, PASS_TO_PASS)
    assert (await grade(grading, GOLD, task)).outcome is Outcome.passed


async def test_the_log_is_kept_as_a_blob(grading: Grading):
    report = await grading.runner.run(grading.world.environment, COMMAND, [tar(TREE)])
    assert report.log_tail and report.log_tail.encode() in grading.world.blobs.get(report.log)
