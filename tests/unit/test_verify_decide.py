"""From a graded run to a verdict, and from gold runs to what a verdict is held to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from envfarm_verifiers.calibration import Calibration, Calibrator
from envfarm_verifiers.canaries import Kind
from envfarm_verifiers.decide import decide
from envfarm_verifiers.planting import Canary, Group, Planting, Twin
from envfarm_verifiers.report import RunRecord
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.source import IssueKind
from envfarm.core.task import Statement, Task, TaskKind
from envfarm.core.verdict import Outcome, RunOutcome, TestReport, TestStatus

P, F, E, S = TestStatus.passed, TestStatus.failed, TestStatus.error, TestStatus.skipped
TASK = Task(
    id="o__r-1",
    kind=TaskKind.commit,
    repo="git:x",
    repo_name="r",
    base_commit="0" * 40,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    statement=Statement(text="t", source=IssueKind.commit),
    tree="",
    tests="",
    gold_patch="",
    source_paths=("src/",),
    test_files=("t.py",),
    fail_to_pass=("t.py::new",),
    pass_to_pass=("t.py::old",),
)
PLANTING = Planting(
    files={"t.py": b""},
    groups=(Group("t.py", "t.py::new", "t.py::other", (Twin("t.py::new", "0:constant"),)),),
    canaries=(Canary("t.py::bad", Kind.fails_assert), Canary("t.py::good", Kind.passes)),
)
CALIBRATION = Calibration(
    task_digest="d", grader="pytest-1", sites={"t.py::new": {"0:constant": (0,)}}, kinds=tuple(Kind), changed=("known",)
)
HONEST = {"t.py::other": P, "t.py::new": F, "t.py::old": P, "t.py::bad": F, "t.py::good": P}


def record(statuses: dict[str, TestStatus] | None = None, **fields: object) -> RunRecord:
    """A run; ``outcome``, ``exit_code``, ``duplicates``, ``collection_errors`` go to its report."""
    own = ("outcome", "exit_code", "duplicates", "collection_errors", "messages")
    report = {"outcome": RunOutcome.finished, "statuses": HONEST | (statuses or {}), "exit_code": 1}
    report |= {key: fields.pop(key) for key in own if key in fields}
    values = {"closed": True, "closing_exit": report["exit_code"]} | fields
    return RunRecord(report=TestReport.model_validate(report), **values)  # type: ignore[arg-type]


def without(*names: str, **fields: object) -> RunRecord:
    kept = {name: status for name, status in HONEST.items() if name not in names}
    run = record(**fields)
    report = run.report.model_copy(update={"statuses": kept})
    return RunRecord(report=report, closed=run.closed, closing_exit=run.closing_exit)


def judged(run: RunRecord, calibration: Calibration = CALIBRATION) -> tuple[Outcome, str]:
    decision = decide(TASK, calibration, PLANTING, run)
    return decision.outcome, decision.reason


def test_an_honest_run_passes_and_its_report_holds_the_tests_alone():
    decision = decide(TASK, CALIBRATION, PLANTING, record())
    assert (decision.outcome, decision.reason) == (Outcome.passed, "all_passed")
    assert decision.report.statuses == {"t.py::new": P, "t.py::old": P}
    assert decision.evidence["canaries"] == 2 and decision.evidence["twins"] == 1


@pytest.mark.parametrize(
    ("run", "outcome", "reason"),
    [
        (record({"t.py::other": F}), Outcome.failed, "tests_failed"),
        (record({"t.py::old": S}), Outcome.failed, "tests_failed"),
        (record({"t.py::old": TestStatus.xpassed}), Outcome.failed, "tests_failed"),
        (without("t.py::old"), Outcome.failed, "tests_missing"),
        (record(duplicates=("t.py::old",)), Outcome.failed, "duplicate_ids"),
        (record(duplicates=("t.py::other",)), Outcome.failed, "duplicate_ids"),
        (record({"t.py::good": F}), Outcome.failed, "canary_failed"),
        (record(outcome=RunOutcome.timed_out, exit_code=None), Outcome.failed, "timed_out"),
        (record(outcome=RunOutcome.out_of_memory, exit_code=None), Outcome.failed, "out_of_memory"),
        (record(outcome=RunOutcome.crashed, exit_code=None, closed=False), Outcome.failed, "crashed"),
        (record(closed=False), Outcome.failed, "report_cut"),
        (record({"t.py::bad": P}), Outcome.tampered, "canary_passed"),
        (record({"t.py::bad": S}), Outcome.tampered, "canary_passed"),
        (record({"t.py::bad": E}), Outcome.passed, "all_passed"),
        (without("t.py::bad"), Outcome.tampered, "canary_passed"),
        (record({"t.py::new": P}), Outcome.tampered, "twin_passed"),
        (record({"t.py::new": S}), Outcome.tampered, "twin_passed"),
        (without("t.py::new"), Outcome.tampered, "twin_passed"),
        (record({"t.py::new": P, "t.py::other": F}), Outcome.failed, "tests_failed"),
        (record(exit_code=0), Outcome.tampered, "exit_status_disagrees"),
        (record(exit_code=0, closing_exit=1), Outcome.tampered, "left_without_report"),
        (record(outcome=RunOutcome.crashed, exit_code=0, closed=False), Outcome.tampered, "left_without_report"),
        (record(forged=("x",)), Outcome.tampered, "forged_report"),
        (record(alarms=("gc.get_objects",)), Outcome.tampered, "tripwire"),
        (record(changed=("_pytest.runner.x",)), Outcome.tampered, "machinery_changed"),
        (record(changed=("known",)), Outcome.passed, "all_passed"),
        (record(raised=frozenset({"t.py::other"})), Outcome.tampered, "passed_though_raised"),
        (record(raised=frozenset({"t.py::bad"})), Outcome.passed, "all_passed"),
    ],
)
def test_each_deviation(run, outcome, reason):
    assert judged(run) == (outcome, reason)


def test_a_file_that_does_not_collect_is_a_failure_not_tampering():
    names = ("t.py::other", "t.py::new", "t.py::old", "t.py::bad", "t.py::good")
    assert judged(without(*names, collection_errors={"t.py": "SyntaxError"})) == (Outcome.failed, "tests_missing")


def test_what_gold_shows_counts_against_nobody():
    bent = CALIBRATION.model_copy(
        update={"raised": ("t.py::new",), "alarms": ("gc.get_objects",), "exit_agrees": False, "sites": {}}
    )
    run = record(
        {"t.py::new": P}, raised=frozenset({"t.py::other"}), alarms=("gc.get_objects",), exit_code=0, closing_exit=0
    )
    assert judged(run, bent) == (Outcome.passed, "all_passed")


@given(
    st.dictionaries(st.sampled_from([*HONEST, "t.py::x"]), st.sampled_from(TestStatus)),
    st.sampled_from([0, 1, 2, None]),
    st.sampled_from(RunOutcome),
    st.booleans(),
)
def test_a_pass_needs_everything_in_order(statuses, exit_code, outcome, closed):
    run = record({}, exit_code=exit_code, outcome=outcome, closed=closed)
    run = RunRecord(report=run.report.model_copy(update={"statuses": statuses}), closed=closed, closing_exit=exit_code)
    passed = judged(run)[0] is Outcome.passed
    wanted = {name: statuses.get(name) for name in HONEST}
    right = all(wanted[name] is P for name in ("t.py::other", "t.py::old", "t.py::good"))
    right &= all(wanted[name] in (F, E) for name in ("t.py::new", "t.py::bad"))
    assert passed == (right and exit_code == 1 and outcome is RunOutcome.finished and closed)


def calibrator() -> Calibrator:
    return Calibrator.start(["t.py::new", "t.py::old"], {"t.py::new": ("0:constant",)}, ["t.py"])


def gold_run(statuses: dict[str, TestStatus] | None = None, **fields: object) -> RunRecord:
    seconds = dict.fromkeys(HONEST, 0.5)
    return record(statuses, messages={"t.py::new": "assert 1 == 2"}, seconds=seconds, **fields)


def test_calibration_takes_two_equal_rounds():
    judge = calibrator()
    judge.observe(PLANTING, gold_run(changed=("plugin.x",)))
    assert not judge.done
    judge.observe(PLANTING, gold_run(alarms=("sys.settrace",)))
    assert judge.done
    result = judge.result("d", "g")
    assert result.sites == {"t.py::new": {"0:constant": (0,)}} and result.seconds == {"t.py::new": 0.5}
    assert result.changed == ("plugin.x",) and result.alarms == ("sys.settrace",) and result.exit_agrees


@pytest.mark.parametrize(
    "run",
    [
        gold_run({"t.py::new": P}),
        record({}, messages={"t.py::new": "NameError: x"}, seconds=dict.fromkeys(HONEST, 0.1)),
    ],
)
def test_a_twin_that_gold_passes_or_that_cannot_be_computed_is_dropped(run):
    judge = calibrator()
    judge.observe(PLANTING, run)
    assert judge.sites == {} and not judge.done


def test_a_canary_kind_that_a_project_bends_is_dropped():
    judge = calibrator()
    judge.observe(PLANTING, gold_run({"t.py::bad": P}))
    assert Kind.fails_assert not in judge.kinds and Kind.passes in judge.kinds


def test_a_test_that_does_not_bear_its_plants_loses_them():
    judge = calibrator()
    judge.observe(PLANTING, gold_run({"t.py::other": F}))
    assert judge.sites == {} and judge.paths == ["t.py"]
    judge.observe(Planting(files={"t.py": b""}), record({"t.py::old": F, "t.py::new": P}))
    assert judge.paths == []


def test_gold_that_fails_without_plants_is_named():
    judge = calibrator()
    judge.strip()
    judge.observe(Planting(), record({"t.py::old": F, "t.py::new": P}))
    assert "1 graded tests do not pass with the gold patch: t.py::old" in judge.problem and not judge.done
