"""Group-relative advantages: rewards of the rollouts of one task -> how much better than the group each was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from envfarm.core.errors import Reason, TrainerError


class AdvantageKind(StrEnum):
    """With R the reward and m, s the mean and standard deviation over the n valid rollouts of the group."""

    dr_grpo = "dr_grpo"
    """R - m (arXiv 2503.20783)."""
    grpo = "grpo"
    """(R - m) / (s + 1e-6) (arXiv 2402.03300)."""
    rloo = "rloo"
    """R less the mean of the others: n / (n - 1) (R - m) (arXiv 2402.14740)."""
    max_rl = "max_rl"
    """(R - m) / m, for rewards that are never negative: rare successes weigh more, as in maximum likelihood."""


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Of one group."""

    values: tuple[float, ...]
    """For each rollout; 0.0 for masked ones."""
    valid: int
    """Rollouts that count. With none, the group contributes nothing."""
    zero_variance: bool
    """All valid rewards are equal (or there are none): no signal, all values are 0."""


def advantages(
    rewards: Sequence[float], valid: Sequence[bool], kind: AdvantageKind = AdvantageKind.dr_grpo
) -> GroupAdvantages:
    """Advantages of one group. Masked rollouts (``valid`` false) change nothing for the others.

    Raises ``TrainerError`` for an empty group, a reward that is not finite, or a negative one under ``max_rl``.
    """
    if not rewards:
        raise _refused("the group is empty")
    if not all(math.isfinite(reward) for reward in rewards):
        raise _refused(f"not all rewards are finite: {list(rewards)}")
    counted = [reward for reward, counts in zip(rewards, valid, strict=True) if counts]
    if kind is AdvantageKind.max_rl and min(counted, default=0.0) < 0:
        raise _refused(f"max_rl takes no negative rewards: {counted}")
    n = len(counted)
    if n == 0 or max(counted) == min(counted):
        return GroupAdvantages((0.0,) * len(rewards), n, zero_variance=True)
    mean = math.fsum(counted) / n
    match kind:
        case AdvantageKind.dr_grpo:
            scale = 1.0
        case AdvantageKind.grpo:
            scale = 1.0 / (math.sqrt(math.fsum((reward - mean) ** 2 for reward in counted) / n) + 1e-6)
        case AdvantageKind.rloo:
            scale = n / (n - 1)
        case AdvantageKind.max_rl:
            scale = 1.0 / mean
    values = tuple((reward - mean) * scale if counts else 0.0 for reward, counts in zip(rewards, valid, strict=True))
    return GroupAdvantages(values, n, zero_variance=False)


def _refused(why: str) -> TrainerError:
    return TrainerError(
        f"A group has no advantages: {why}.",
        reason=Reason.batch_unusable,
        phase="advantages",
        remedy="Mend the reward function; rollouts that must not count are masked, not given odd rewards.",
    )
