"""What validation shows of a mutant that its gate did not see."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from envfarm_builders.synth.choose import Proposal
from envfarm_builders.synth.edits import edits
from envfarm_builders.synth.task import Origin, draft_mutant, still_shown

from envfarm.core.archive import File, unpack
from envfarm.core.errors import BuilderError
from envfarm.core.task import Task
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus, Transition, Validation
from envfarm.wiring.plan import RunPlan
from envfarm.wiring.stages.synth import SynthStage, to_json

from ..repositories import MemoryBlobs

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SOURCE = "def half(number):\n    return number // 2\n"
NAMES = ("one", "two", "three", "four")
TESTS = "from halves import half\n" + "".join(
    f"\n\ndef test_{name}():\n    assert half({number}) == {number // 2}\n" for number, name in enumerate(NAMES, 4)
)
IDS = tuple(f"tests/test_half.py::test_{name}" for name in NAMES)
FILES = {"halves.py": File(SOURCE.encode()), "tests/test_half.py": File(TESTS.encode())}
ORIGIN = Origin("git:/halves", "halves", "c0ffee", "1.0", FILES, ("halves.py",))


def report(*failed: str) -> TestReport:
    return TestReport(
        outcome=RunOutcome.finished,
        statuses={test: TestStatus.failed if test in failed else TestStatus.passed for test in IDS},
    )


def validation(task: Task, *failing: str) -> Validation:
    return Validation(
        task_id=task.id, environment_digest="sha256:0", valid=True, before=(report(*failing),),
        transitions=dict.fromkeys(failing, Transition.f2p), validated_at=NOW,
    )  # fmt: skip


class Stage(SynthStage):
    """Over one revision that is at hand."""

    def __post_init__(self) -> None:
        self.origin = lambda ref, commit: ORIGIN


@pytest.fixture
def drafted() -> tuple[Stage, dict[str, Any], Task, MemoryBlobs]:
    proposal = Proposal("halves.py", edits(SOURCE, function="half")[0], IDS[:2])
    blobs = MemoryBlobs()
    task = draft_mutant(ORIGIN, proposal, report(*IDS[:2]), cast("Any", blobs), created_at=NOW)
    stage = Stage(cast("Any", SimpleNamespace(blobs=blobs)), "run", RunPlan(repositories=("git:/halves",)))
    return stage, {"ref": "git:/halves", "commit": "c0ffee", "proposal": to_json(proposal)}, task, blobs


def test_tests_that_only_the_whole_suite_shows_leave_the_tree_too(drafted: Any) -> None:
    stage, payload, task, blobs = drafted
    assert len(still_shown(unpack(blobs.get(task.tree)), IDS)) > 1
    hidden = stage.hide_failing(payload, task, validation(task, *IDS))
    assert (hidden.id, hidden.tests, hidden.gold_patch) == (task.id, task.tests, task.gold_patch)
    left = still_shown(unpack(blobs.get(hidden.tree)), IDS)
    assert len({*left, *hidden.statement.shown_tests}) == 1


def test_a_mutant_whose_gate_saw_them_all_stays_as_it_is(drafted: Any) -> None:
    stage, payload, task, _ = drafted
    assert stage.hide_failing(payload, task, validation(task, *IDS[:2])) is task


def test_what_cannot_be_hidden_is_refused(drafted: Any) -> None:
    stage, payload, task, _ = drafted
    with pytest.raises(BuilderError, match="cannot be hidden"):
        stage.hide_failing(payload, task, validation(task, *IDS, "tests/test_half.py::made"))
