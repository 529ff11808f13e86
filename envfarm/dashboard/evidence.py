"""A validation as tables: one line for each run, one for each test. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from envfarm.core.base import Noun
from envfarm.core.verdict import TestReport, TestStatus, Transition, Validation

ABSENT = "absent"
"""A test that a run did not report."""
STATES = ("base", "before", "after")
"""The three states, as ``Validation`` names them."""
STATE_TITLES = {"base": "base", "before": "base + tests", "after": "base + tests + gold"}
FLAKY = "flaky"
"""Beside the transitions: tests whose status differed between repetitions."""


class RunLine(Noun):
    """One run of the suite."""

    state: str
    repetition: int
    report: TestReport
    counts: dict[str, int]
    """Status -> tests."""


class TestLine(Noun):
    """One test over all runs."""

    id: str
    transition: str
    flaky: bool
    base: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    message: str
    """What its last failure said."""


def run_lines(validation: Validation) -> Iterator[RunLine]:
    """The runs in order of state and repetition."""
    for state in STATES:
        reports: tuple[TestReport, ...] = getattr(validation, state)
        for number, report in enumerate(reports, 1):
            counts = Counter(str(status) for status in report.statuses.values())
            yield RunLine(
                state=state,
                repetition=number,
                report=report.model_copy(update={"statuses": {}, "coverage": {}, "messages": {}}),
                counts={status: counts[status] for status in map(str, TestStatus) if counts[status]},
            )


def transition_counts(validation: Validation) -> dict[str, int]:
    """Transition -> tests, in the order of the enum; flaky ones last."""
    counts = Counter(validation.transitions.values())
    found = {str(each): counts[each] for each in Transition if counts[each]}
    return {**found, FLAKY: len(validation.flaky)} if validation.flaky else found


def test_lines(validation: Validation, transition: str = "", limit: int = 500) -> tuple[list[TestLine], int]:
    """Lines of the tests with a transition (or ``flaky``), and how many there are without the limit.

    Without a transition: every test except those that passed all along.
    """
    flaky = set(validation.flaky)
    reports = (*validation.base, *validation.before, *validation.after)
    everything = sorted({test for report in reports for test in report.statuses} | set(validation.transitions))
    chosen = [
        test for test in everything if _chosen(str(validation.transitions.get(test, "")), test in flaky, transition)
    ]
    lines = [_line(validation, test, test in flaky) for test in chosen[:limit]]
    return lines, len(chosen)


def _chosen(moved: str, flaky: bool, wanted: str) -> bool:
    if wanted == FLAKY:
        return flaky
    if wanted:
        return moved == wanted
    return flaky or moved != Transition.p2p


def _line(validation: Validation, test: str, flaky: bool) -> TestLine:
    def statuses(reports: tuple[TestReport, ...]) -> tuple[str, ...]:
        return tuple(str(report.statuses.get(test, ABSENT)) for report in reports)

    messages = [report.messages[test] for report in (*validation.base, *validation.before, *validation.after)
                if test in report.messages]  # fmt: skip
    return TestLine(
        id=test,
        transition=str(validation.transitions.get(test, "")),
        flaky=flaky,
        base=statuses(validation.base),
        before=statuses(validation.before),
        after=statuses(validation.after),
        message=messages[-1] if messages else "",
    )
