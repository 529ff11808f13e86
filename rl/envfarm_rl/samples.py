"""What training reads: chains of tokens with what the policy emitted, and how each episode ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

Support = tuple[int, ...] | None
"""Token ids among which a token was drawn; None for the whole vocabulary."""


def is_forced(support: Support) -> bool:
    """Whether a token had no alternative: its log-probability is 0, and nothing is learned from it."""
    return support is not None and len(support) == 1


class Outcome(StrEnum):
    """How an episode ended, as training sees it. Only ``infra``, ``stale`` and ``cancelled`` are masked."""

    passed = "passed"
    failed = "failed"
    """By the grader, and by anything that the policy can cause: a malformed call, a broken box, a timeout."""
    truncated = "truncated"
    """A budget of turns, time or context was spent before it handed in: scored 0, counted apart."""
    infra = "infra"
    """A fault proven outside the policy's reach."""
    stale = "stale"
    """Older than the run's staleness allows."""
    cancelled = "cancelled"

    @property
    def masked(self) -> bool:
        """Whether training must not see it."""
        return self in (Outcome.infra, Outcome.stale, Outcome.cancelled)


@dataclass(frozen=True, slots=True)
class Sample:
    """One chain: a prompt, and turns after it. All tuples are as long as ``tokens``.

    ``action`` marks tokens that the policy emitted and that this chain trains; ``logprobs`` is the behaviour law's
    log-probability of each (nats; after mask and temperature; 0.0 elsewhere), ``versions`` the policy version that
    emitted it (-1 elsewhere), ``supports`` what it was drawn from.
    """

    tokens: tuple[int, ...]
    action: tuple[bool, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    supports: tuple[Support, ...]
    routes: Tensor | None = None
    """Experts chosen at rollout, uint8 [len(tokens), layers with experts, top_k]; 255 where there is none to replay."""

    def __post_init__(self) -> None:
        lengths = {len(each) for each in (self.tokens, self.action, self.logprobs, self.versions, self.supports)}
        if len(lengths) != 1:
            raise ValueError(f"the parts of a sample have lengths {sorted(lengths)}")

    @property
    def action_tokens(self) -> int:
        """Tokens that are trained."""
        return sum(self.action)


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished rollout: its chains (one, unless the context was forked) and its outcome."""

    task: str
    index: int
    """Its place in the group."""
    samples: tuple[Sample, ...]
    outcome: Outcome
    reward: float
    """What the trainer makes of the outcome; must be finite."""
    reason: str = ""
    """Why it was masked or truncated."""

    @property
    def version(self) -> int:
        """The oldest policy version that emitted any of it; -1 where it emitted nothing."""
        return min((v for sample in self.samples for v in sample.versions if v >= 0), default=-1)


@dataclass(frozen=True, slots=True)
class EpisodeGroup:
    """Episodes of one task: the unit of group-relative advantages."""

    task: str
    episodes: tuple[Episode, ...]
