"""Nouns of verification: test reports, validations and verdicts."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from .base import Identified, Noun


class TestStatus(StrEnum):
    """Outcome of one test, over its setup, call and teardown."""

    __test__ = False

    passed = "passed"
    failed = "failed"
    error = "error"
    """Failed outside its own body: fixture, teardown, collection."""
    skipped = "skipped"
    xfailed = "xfailed"
    xpassed = "xpassed"


class RunOutcome(StrEnum):
    """How a whole test run ended, judged from outside the box."""

    finished = "finished"
    timed_out = "timed_out"
    out_of_memory = "out_of_memory"
    crashed = "crashed"
    """Ended without the reporter's closing record."""
    no_tests = "no_tests"


class TestReport(Noun):
    """One run of a test command: the full status map and what is needed to doubt it."""

    __test__: ClassVar[bool] = False

    outcome: RunOutcome
    statuses: dict[str, TestStatus]
    collection_errors: dict[str, str] = {}
    """Path -> first line of the error of files that did not collect: their tests are hidden, not failed."""
    duplicates: tuple[str, ...] = ()
    """Ids reported more than once."""
    messages: dict[str, str] = {}
    """Id -> short failure text, for statements and pages."""
    exit_code: int | None = None
    duration_sec: float = 0.0
    cpu_sec: float = 0.0
    coverage: dict[str, dict[int, tuple[str, ...]]] = {}
    """Path -> line -> ids of the tests that ran it; only where tracing was asked for."""
    log: str = ""
    """Blob digest of the run's console output, or empty."""
    log_tail: str = ""
    """The last 4,000 characters of the console output."""


class Transition(StrEnum):
    """How a test moved between base+tests and base+tests+gold."""

    p2p = "p2p"
    f2p = "f2p"
    s2p = "s2p"
    n2p = "n2p"
    """Absent before, and not because its file failed to collect."""
    e2p = "e2p"
    """Error before (fixture, or its file did not collect): hides whether the test would have failed."""
    p2f = "p2f"
    other = "other"


class InvalidReason(StrEnum):
    """Why validation refused a task."""

    no_f2p = "no_f2p"
    only_error_to_pass = "only_error_to_pass"
    few_f2p = "few_f2p"
    flaky = "flaky"
    gold_fails = "gold_fails"
    breaks_tests = "breaks_tests"
    suite_timeout = "suite_timeout"
    suite_crash = "suite_crash"
    no_tests_collected = "no_tests_collected"
    patch_does_not_apply = "patch_does_not_apply"
    empty_passes = "empty_passes"
    environment_failed = "environment_failed"


class Validation(Noun):
    """The three-state evidence about a task in an environment."""

    task_id: str
    environment_digest: str
    valid: bool
    reason: InvalidReason | None = None
    detail: str = ""
    base: tuple[TestReport, ...] = ()
    before: tuple[TestReport, ...] = ()
    """base + tests, one report for each repetition."""
    after: tuple[TestReport, ...] = ()
    """base + tests + gold."""
    transitions: dict[str, Transition] = {}
    flaky: tuple[str, ...] = ()
    """Tests whose status differed between repetitions: listed, and left out of the graded set."""
    wall_sec: float = 0.0
    cpu_sec: float = 0.0
    validated_at: datetime

    def tests(self, transition: Transition) -> tuple[str, ...]:
        """Ids with that transition, sorted."""
        return tuple(sorted(test for test, moved in self.transitions.items() if moved is transition))


class Outcome(StrEnum):
    """The four verdicts."""

    passed = "pass"
    failed = "fail"
    tampered = "tampered"
    """The submission reached for the grader: rewarded like a failure, counted apart."""
    unscorable = "unscorable"
    """No verdict for a reason proven outside the subject's reach: masked, never rewarded."""


class Verdict(Identified):
    """The judgement of one submission, bound to digests and to the grader's version."""

    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = ("task_digest", "submission_digest", "grader", "outcome")

    task_id: str
    task_digest: str
    submission_digest: str
    grader: str
    """Name and version of the grader: ``pytest-1``."""
    outcome: Outcome
    reason: str = ""
    """A stable slug: ``all_passed``, ``tests_failed``, ``canary_passed``, ``exit_status_disagrees``, ..."""
    evidence: dict[str, Any] = {}
    """Canary results, missing and failed ids, exit status, dropped paths: JSON values only."""
    report: TestReport | None = None
    duration_sec: float = 0.0
    graded_at: datetime
    cached: bool = False

    @property
    def passed(self) -> bool:
        """True for ``pass`` alone."""
        return self.outcome is Outcome.passed
