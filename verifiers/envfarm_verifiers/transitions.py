"""How tests moved between two states. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from envfarm.core.verdict import TestReport, TestStatus, Transition

FLAKY_SHARE = 0.02
"""More unstable tests than this share of all, and more than :data:`FLAKY_COUNT`, make a suite unfit to grade by."""
FLAKY_COUNT = 3


def transition(
    before: TestStatus | None, after: TestStatus | None, *, hidden: bool = False, after_hidden: bool = False
) -> Transition:
    """The class of one test. ``None``: absent; ``hidden``: its file did not collect in that state.

    fail-to-pass is strict: the test's own body failed before. An error, or a file that did not collect, hides whether
    it would have.
    """
    if after is not TestStatus.passed:
        broke = before is TestStatus.passed and (after in _BROKEN or after is None)
        return Transition.p2f if broke or (before is TestStatus.passed and after_hidden) else Transition.other
    match before:
        case TestStatus.passed:
            return Transition.p2p
        case TestStatus.failed:
            return Transition.f2p
        case TestStatus.error:
            return Transition.e2p
        case TestStatus.skipped:
            return Transition.s2p
        case None:
            return Transition.e2p if hidden else Transition.n2p
        case _:
            return Transition.other


_BROKEN = frozenset({TestStatus.failed, TestStatus.error})


def transitions(
    before: Sequence[TestReport], after: Sequence[TestReport], *, leave_out: Iterable[str] = ()
) -> dict[str, Transition]:
    """Class of every test seen in either state, sorted by id; ``leave_out`` (flaky ones) is not classed."""
    skipped = set(leave_out)
    names = {name for report in (*before, *after) for name in report.statuses} - skipped
    first, last = before[0], after[0]
    return {
        name: transition(
            first.statuses.get(name),
            last.statuses.get(name),
            hidden=is_hidden(name, first.collection_errors),
            after_hidden=is_hidden(name, last.collection_errors),
        )
        for name in sorted(names)
    }


def is_hidden(test: str, collection_errors: Iterable[str]) -> bool:
    """Whether an error of collection kept the test out of sight: its file, a conftest above it, its folder."""
    path = test.split("::")[0]
    for broken in collection_errors:
        folder, _, name = broken.rpartition("/")
        scope = broken if name not in ("conftest.py", "__init__.py") else folder
        if path in (broken, scope) or scope in ("", ".") or path.startswith(scope + "/"):
            return True
    return False


def unstable(*states: Sequence[TestReport]) -> tuple[str, ...]:
    """Tests whose status differs between the repetitions of any state, or that were reported twice in one run."""
    found: set[str] = set()
    for reports in states:
        names = {name for report in reports for name in report.statuses}
        found |= {name for name in names if len({report.statuses.get(name) for report in reports}) > 1}
        found |= {name for report in reports for name in report.duplicates}
    return tuple(sorted(found))


def too_flaky(flaky: Sequence[str], total: int) -> bool:
    """Whether a suite is unfit to grade by."""
    return len(flaky) > FLAKY_COUNT and len(flaky) > FLAKY_SHARE * total
