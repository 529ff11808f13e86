"""Groups of episodes -> what a step trains on, with every episode accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envfarm.core.errors import Reason, TrainerError

from ..algorithms.advantages import AdvantageKind, advantages
from ..samples import Episode, EpisodeGroup, Outcome, Sample

UNSCORABLE = "unscorable"
"""``Episode.reason`` of a masked episode that the grader could not judge: counted apart from other infra faults."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """What became of the episodes of a step: ``scored + masked + unscorable == launched``."""

    launched: int
    scored: int
    masked: Mapping[str, int]
    """By outcome, or ``outcome:reason`` where there is one."""
    unscorable: int
    passed: int
    truncated: int
    reward: float
    """Sum over the scored."""
    groups: int
    dropped: int
    """Groups with fewer than two scored episodes: there is nothing to compare."""
    solve_all: int
    """Of the other groups, those whose episodes all passed, ..."""
    solve_none: int
    """... or none."""
    zero_variance: int
    """Of the other groups, those whose rewards are all equal: no signal, so they are skipped."""

    def metrics(self) -> dict[str, Any]:
        """By name; shares are over scored episodes, and over groups that were not dropped."""
        kept = max(self.groups - self.dropped, 1)
        return {
            "launched": self.launched,
            "scored": self.scored,
            "masked": dict(self.masked),
            "unscorable": self.unscorable,
            "truncated": self.truncated,
            "reward": self.reward / max(self.scored, 1),
            "pass_at_1": self.passed / max(self.scored, 1),
            "groups": self.groups,
            "groups_dropped": self.dropped,
            "groups_zero_variance": self.zero_variance,
            "solve_all": self.solve_all / kept,
            "solve_none": self.solve_none / kept,
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """What is trained. Empty where no group has a signal."""

    samples: tuple[Sample, ...]
    advantages: tuple[float, ...]
    """Of each sample; the chains of an episode share its own."""
    accounts: Accounts

    @property
    def skipped(self) -> str:
        """Why there is nothing to train; empty where there is something."""
        if self.samples:
            return ""
        if not self.accounts.scored:
            return "all_masked"
        return "no_signal" if self.accounts.dropped < self.accounts.groups else "all_dropped"


def make_batch(groups: Sequence[EpisodeGroup], *, kind: AdvantageKind, oldest: int) -> Batch:
    """Mask, compare within groups, and count. Episodes with tokens of versions before ``oldest`` are stale.

    Raises ``TrainerError`` for no groups, an empty group, and a reward that is not finite.
    """
    if not groups:
        raise _refused("it has no groups")
    samples: list[Sample] = []
    values: list[float] = []
    masked: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    reward = 0.0
    for group in groups:
        outcomes = [_outcome(episode, oldest) for episode in group.episodes]
        for episode, outcome in zip(group.episodes, outcomes, strict=True):
            counts["launched"] += 1
            counts[outcome] += 1
            if not outcome.masked:
                counts["scored"] += 1
            elif outcome is Outcome.infra and episode.reason == UNSCORABLE:
                counts["unscorable"] += 1
            else:
                why = episode.reason if outcome is episode.outcome else ""
                masked[f"{outcome}:{why}" if why else str(outcome)] += 1
        valid = [not outcome.masked for outcome in outcomes]
        # Also what raises for rewards that are not numbers: before a group is dropped, so that none goes unseen.
        found = advantages([episode.reward for episode in group.episodes], valid, kind)
        reward += sum(episode.reward for episode, counted in zip(group.episodes, valid, strict=True) if counted)
        if found.valid < 2:
            counts["dropped"] += 1
            continue
        solved = outcomes.count(Outcome.passed)
        counts["solve_all"] += solved == found.valid
        counts["solve_none"] += solved == 0
        counts["zero_variance"] += found.zero_variance
        for episode, value, counted in zip(group.episodes, found.values, valid, strict=True):
            if counted and not found.zero_variance:
                trained = [sample for sample in episode.samples if sample.action_tokens]
                samples += trained
                values += [value] * len(trained)
    accounts = Accounts(
        launched=counts["launched"],
        scored=counts["scored"],
        masked=masked,
        unscorable=counts["unscorable"],
        passed=counts[Outcome.passed],
        truncated=counts[Outcome.truncated],
        reward=reward,
        groups=len(groups),
        dropped=counts["dropped"],
        solve_all=counts["solve_all"],
        solve_none=counts["solve_none"],
        zero_variance=counts["zero_variance"],
    )
    if accounts.scored + masked.total() + accounts.unscorable != accounts.launched:
        raise _refused(f"its episodes do not add up: {accounts}")
    return Batch(tuple(samples), tuple(values), accounts)


def _outcome(episode: Episode, oldest: int) -> Outcome:
    if not episode.outcome.masked and 0 <= episode.version < oldest:
        return Outcome.stale
    return episode.outcome


def _refused(why: str) -> TrainerError:
    return TrainerError(
        f"The batch cannot be trained: {why}.",
        reason=Reason.batch_unusable,
        phase="batch",
        remedy="Mend the source of episodes.",
    )
