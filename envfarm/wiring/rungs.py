"""The order of stages, and what an ending of ``base`` says of environment success. Light: pages import it too."""

from __future__ import annotations

from collections.abc import Iterable

from envfarm.core.errors import Reason
from envfarm.core.ports import StageOutcome
from envfarm.core.stats import wilson
from envfarm.core.verdict import InvalidReason
from envfarm.store.rows import FunnelRow, Rate

STAGES = (
    "base", "mine", "filter", "draft", "build", "propose", "mutate", "validate", "publish",
    "rollout", "replay_gold", "replay_empty",
)  # fmt: skip
"""Pipeline order. Workers lease the last first, so that finished tasks appear early; and replays, which always run,
come before rollouts, which find the verdict of a submission that was replayed."""

INSTALLED_ONLY = frozenset({Reason.collect_failed, Reason.no_tests, InvalidReason.no_tests_collected})
"""Endings of ``base`` after a successful installation that collected nothing."""
COLLECTED_ONLY = frozenset({Reason.tests_mostly_fail, Reason.suite_timeout, Reason.suite_crash})
"""Endings of ``base`` with a collected suite that did not pass the third rung."""

INSTALLS, COLLECTS, PASSES = "installs", "collects a test", "85 % of tests pass"


def rungs(base: Iterable[FunnelRow]) -> tuple[Rate, Rate, Rate]:
    """The three rungs of environment success, each over every repository tried, with Wilson intervals.

    ``base`` are the counters of the stage of that name. An ending that is in neither table above counts as not
    installed, so that an unknown failure never flatters.
    """
    tried = installs = collects = passes = 0
    for row in base:
        tried += row.n
        done = row.outcome is StageOutcome.done
        passes += row.n if done else 0
        collects += row.n if done or row.reason in COLLECTED_ONLY else 0
        installs += row.n if done or row.reason in COLLECTED_ONLY | INSTALLED_ONLY else 0
    return rate(INSTALLS, installs, tried), rate(COLLECTS, collects, tried), rate(PASSES, passes, tried)


def rate(key: str, k: int, n: int) -> Rate:
    """``k`` of ``n`` with its 95 % Wilson interval. Raises ``ValueError`` unless 0 <= k <= n."""
    low, high = wilson(k, n)
    return Rate(key=key, k=k, n=n, low=low, high=high)
