"""The policy loss: three choices (ratio, clip, correction), and what to watch while it is minimised.

Notation: pi the policy at hand, prox the policy that the step started from, mu the law that emitted the tokens; rho =
pi / prox, w = prox / mu, A the advantage. Every loss is a sum over tokens divided by a denominator that the caller
takes over the whole batch, so that micro-batches add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from envfarm.core.errors import ConfigError, Reason, TrainerError


class Ratio(StrEnum):
    """What rho compares."""

    token = "token"
    sequence = "sequence"
    """Every token of a sample has the geometric mean over the sample (GSPO, arXiv 2507.18071)."""


class Clip(StrEnum):
    """How far rho may move the policy."""

    pessimistic = "pessimistic"
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347)."""
    truncated = "truncated"
    """-sg[min(rho, 1 + high)] A log pi: no token loses its gradient (CISPO, arXiv 2506.13585)."""
    dropped = "dropped"
    """-sg[rho] A log pi without tokens whose probability has already moved by more than ``high`` up (A > 0) or ``low``
    down (A < 0) (DPPO, arXiv 2602.04879)."""


class Correction(StrEnum):
    """The weight of a token for w, the distance between the trainer's law and the engine's; without gradient."""

    none = "none"
    tis = "tis"
    """min(w, most)."""
    icepop = "icepop"
    """w where it lies within [least, most], else 0."""
    mis = "mis"
    """1, or 0 for samples whose geometric mean of w lies outside [least, most]."""
    opsm = "opsm"
    """1, or 0 for samples with A < 0 whose mean of log(mu / pi) exceeds ``most``."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """An algorithm, as choices. Named ones are in ``presets``."""

    ratio: Ratio = Ratio.token
    clip: Clip = Clip.pessimistic
    low: float = 0.2
    high: float = 0.28
    correction: Correction = Correction.tis
    least: float = 0.0
    most: float = 2.0
    bypass: bool = False
    """Take mu for prox: rho is then pi / mu and w is 1."""

    def __post_init__(self) -> None:
        if self.bypass and self.correction not in (Correction.none, Correction.opsm):
            raise ConfigError(
                f"The correction {self.correction} does nothing where w is 1.",
                reason=Reason.config,
                phase="policy loss",
                remedy="Drop bypass, or choose the correction none or opsm.",
            )


@dataclass(frozen=True, slots=True)
class LossStats:
    """Sums over tokens; those of micro-batches are added with ``+``. r is pi / mu."""

    positive: float
    """Tokens with A > 0."""
    negative: float
    clipped_positive: float
    """Of the positive ones, those whose gradient the clip took or (CISPO) bounded."""
    clipped_negative: float
    masked_positive: float
    """Of the positive ones, those that the correction took out."""
    masked_negative: float
    tokens: float
    ratio: float
    """Sum of r."""
    ratio_squared: float
    kl: float
    """Sum of r - 1 - log r, an estimate of KL(mu || pi) that is never negative."""
    gap: float
    """The largest abs(log r)."""

    def __add__(self, other: LossStats) -> LossStats:
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in self.__slots__}
        return LossStats(**{name: max(pair) if name == "gap" else sum(pair) for name, pair in pairs.items()})

    def metrics(self) -> dict[str, float]:
        """Shares and means, by name. ``ess`` is the effective sample size (sum r)^2 / sum r^2 over the tokens."""
        return {
            "clipped_positive": self.clipped_positive / max(self.positive, 1.0),
            "clipped_negative": self.clipped_negative / max(self.negative, 1.0),
            "masked_positive": self.masked_positive / max(self.positive, 1.0),
            "masked_negative": self.masked_negative / max(self.negative, 1.0),
            "ess": self.ratio**2 / (self.ratio_squared * self.tokens) if self.tokens else 1.0,
            "kl_behaviour": self.kl / max(self.tokens, 1.0),
            "max_logprob_gap": self.gap,
        }


def policy_loss(
    spec: PolicyLoss,
    *,
    logp: Tensor,
    prox: Tensor,
    behaviour: Tensor,
    advantages: Tensor,
    mask: Tensor,
    sample: Tensor,
    denominator: float,
) -> tuple[Tensor, LossStats]:
    """The loss to minimise (a scalar) and its statistics.

    All tensors are [N], one entry for each token: log-probabilities (nats) under pi (with gradient), prox and mu;
    advantages; which tokens count (bool); the index of each one's sample, all of whose tokens must be here.
    Raises ``TrainerError`` where what counts is not finite.
    """
    logp, prox, behaviour, advantages, sample = (
        each[mask] for each in (logp, prox.detach(), behaviour.detach(), advantages.detach(), sample)
    )
    for name, each in (("logp", logp), ("prox", prox), ("behaviour", behaviour), ("advantages", advantages)):
        _check_finite(name, each.detach())
    anchor = behaviour if spec.bypass else prox
    log_ratio = logp - anchor
    if spec.ratio is Ratio.sequence:
        log_ratio = _sample_mean(log_ratio, sample)
    ratio = _exp(log_ratio)
    if spec.clip is Clip.pessimistic:
        losses = -torch.minimum(ratio * advantages, ratio.clamp(1 - spec.low, 1 + spec.high) * advantages)
        up, down = ratio.detach() > 1 + spec.high, ratio.detach() < 1 - spec.low
    elif spec.clip is Clip.truncated:
        losses = -ratio.detach().clamp_max(1 + spec.high) * advantages * logp
        up = down = ratio.detach() > 1 + spec.high
    else:
        moved = logp.detach().exp() - anchor.exp()
        up, down = moved > spec.high, moved < -spec.low
        dropped = torch.where(advantages > 0, up, down)
        losses = -ratio.detach() * ~dropped * advantages * logp
    weights = _weights(spec, logp.detach(), anchor, behaviour, advantages, sample)
    loss = (weights * losses).sum() / denominator
    _check_finite("loss", loss.detach())
    return loss, _stats(logp.detach() - behaviour, advantages, up, down, weights)


def _weights(spec: PolicyLoss, logp: Tensor, prox: Tensor, mu: Tensor, advantages: Tensor, sample: Tensor) -> Tensor:
    gap = prox - mu
    match spec.correction:
        case Correction.none:
            return torch.ones_like(gap)
        case Correction.tis:
            return _exp(gap).clamp_max(spec.most)
        case Correction.icepop:
            weights = _exp(gap)
            return weights * _within(weights, spec)
        case Correction.mis:
            return _within(_exp(_sample_mean(gap, sample)), spec).to(gap.dtype)
        case Correction.opsm:
            dropped = (advantages < 0) & (_sample_mean(mu - logp, sample) > spec.most)
            return (~dropped).to(gap.dtype)


def _within(values: Tensor, spec: PolicyLoss) -> Tensor:
    return (values >= spec.least) & (values <= spec.most)


def _exp(log_ratio: Tensor) -> Tensor:
    # Beyond e^20 a ratio only serves to overflow: min() would then meet 0 * inf in the backward pass.
    return log_ratio.clamp(-20.0, 20.0).exp()


def _sample_mean(values: Tensor, sample: Tensor) -> Tensor:
    """[N] -> [N]: for each token the mean over the tokens of its sample."""
    _, group, counts = sample.unique(return_inverse=True, return_counts=True)
    return (values.new_zeros(len(counts)).index_add(0, group, values) / counts)[group]


def _stats(log_ratio: Tensor, advantages: Tensor, up: Tensor, down: Tensor, weights: Tensor) -> LossStats:
    positive, negative, masked = advantages > 0, advantages < 0, weights == 0
    ratio = _exp(log_ratio)
    sums = [
        *(each.sum() for each in (positive, negative, positive & up, negative & down)),
        *(each.sum() for each in (positive & masked, negative & masked, torch.ones_like(masked))),
        *(each.sum() for each in (ratio, ratio.square(), ratio - 1 - log_ratio)),
        torch.cat((log_ratio.abs(), log_ratio.new_zeros(1))).max(),
    ]
    return LossStats(*torch.stack([each.double() for each in sums]).tolist())


def _check_finite(name: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise TrainerError(
            f"The policy loss met values of {name} that are not finite.",
            reason=Reason.not_finite,
            phase="policy loss",
            remedy="Resume from the last stable checkpoint with a smaller learning rate, and look at the batch.",
        )
