"""Transitions between states, and what counts as flaky."""

from __future__ import annotations

import pytest
from envfarm_verifiers.transitions import is_hidden, too_flaky, transition, transitions, unstable
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.verdict import RunOutcome, TestReport, TestStatus, Transition

P, F, E, S = TestStatus.passed, TestStatus.failed, TestStatus.error, TestStatus.skipped
X = TestStatus.xfailed


def report(**statuses: TestStatus) -> TestReport:
    return TestReport(outcome=RunOutcome.finished, statuses={f"t/{name}.py::t": s for name, s in statuses.items()})


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (P, P, Transition.p2p),
        (F, P, Transition.f2p),
        (E, P, Transition.e2p),
        (S, P, Transition.s2p),
        (X, P, Transition.other),
        (None, P, Transition.n2p),
        (P, F, Transition.p2f),
        (P, E, Transition.p2f),
        (P, None, Transition.p2f),
        (P, S, Transition.other),
        (F, F, Transition.other),
        (F, X, Transition.other),
    ],
)
def test_each_class(before, after, moved):
    assert transition(before, after) is moved


def test_a_test_of_a_file_that_did_not_collect_is_never_fail_to_pass():
    before = report(b=P).model_copy(update={"collection_errors": {"t/a.py": "ImportError"}})
    moved = transitions([before], [report(a=P, b=P)])
    assert moved == {"t/a.py::t": Transition.e2p, "t/b.py::t": Transition.p2p}


@pytest.mark.parametrize(
    ("broken", "hidden"),
    [
        ("t/a.py", True), ("t/conftest.py", True), ("conftest.py", True), ("t/__init__.py", True), ("t", True),
        ("", True),
        ("t/b.py", False), ("u/conftest.py", False), ("t/a", False),
    ],
)  # fmt: skip
def test_what_hides_a_test(broken, hidden):
    assert is_hidden("t/a.py::C::t[x]", [broken]) is hidden


def test_unstable_in_any_state_or_repeated_in_one_run():
    twice = report(d=P).model_copy(update={"duplicates": ("t/d.py::t",)})
    assert unstable([report(a=P, b=P), report(a=F, b=P)], [report(c=P), report()], [twice, twice]) == (
        "t/a.py::t",
        "t/c.py::t",
        "t/d.py::t",
    )


def test_flaky_tests_are_not_classed():
    assert transitions([report(a=F, b=F)], [report(a=P, b=P)], leave_out=["t/a.py::t"]) == {"t/b.py::t": Transition.f2p}


def test_a_few_flaky_tests_are_left_out_and_many_are_too_many():
    assert not too_flaky(["x"] * 3, 10)
    assert too_flaky(["x"] * 4, 100)
    assert not too_flaky(["x"] * 4, 1000)


STATUS = st.none() | st.sampled_from(TestStatus)


@given(STATUS, STATUS, st.booleans())
def test_fail_to_pass_is_strict(before, after, hidden):
    moved = transition(before, after, hidden=hidden)
    assert (moved is Transition.f2p) == (before is F and after is P)
    assert (moved is Transition.p2p) == (before is P and after is P)
