"""Fixtures of the grading tests: one home, one provider, one validated task for a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from envfarm_verifiers.grade import PytestGrader
from envfarm_verifiers.runner import PytestRunner
from envfarm_verifiers.validate import finalize

from envfarm.core.environment import TestCommand
from envfarm.core.task import Task
from envfarm.core.verdict import TestReport, TestStatus, Transition, Validation
from envfarm.sandbox.local import LocalProvider

from .grading_world import CLOCK, World, open_world

COMMAND = TestCommand(timeout_sec=60)
FAIL_TO_PASS = (
    "tests/test_clock.py::test_empty",
    "tests/test_clock.py::test_sum[1m 1s-61]",
    "tests/test_clock.py::test_sum[2h 3m-7380]",
    "tests/test_clock.py::test_sum_as_duration",
    "tests/test_parse.py::TestParse::test_parts",
)
PASS_TO_PASS = (
    "tests/test_clock.py::test_single",
    "tests/test_clock.py::test_unknown_unit",
    "tests/test_clock.py::test_words[\\xfc-1]",
    "tests/test_clock.py::test_words[a b-2]",
    "tests/test_clock.py::test_words[a::b [c]-2]",
    "tests/test_other.py::test_none",
    "tests/test_parse.py::TestParse::test_one",
)


@dataclass
class Grading:
    """What a grading test needs."""

    world: World
    provider: LocalProvider
    runner: PytestRunner
    grader: PytestGrader
    task: Task

    def with_tests(self, task: Task, f2p: tuple[str, ...], p2p: tuple[str, ...] = ()) -> Task:
        """The task as a validation with these findings completes it."""
        moved = dict.fromkeys(f2p, Transition.f2p) | dict.fromkeys(p2p, Transition.p2p)
        validation = Validation(
            task_id=task.id,
            environment_digest=self.world.environment.digest,
            valid=True,
            transitions=moved,
            validated_at=CLOCK,
        )
        return finalize(task, self.world.environment, validation)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grading(world: World) -> AsyncIterator[Grading]:
    async with LocalProvider(world.home) as provider:
        grader = PytestGrader(provider, world.blobs, lambda environment: COMMAND)
        found = Grading(world, provider, PytestRunner(provider, world.blobs), grader, world.task())
        found.task = found.with_tests(found.task, FAIL_TO_PASS, PASS_TO_PASS)
        yield found


def passing(report: TestReport) -> set[str]:
    """Ids that passed."""
    return {name for name, status in report.statuses.items() if status is TestStatus.passed}
