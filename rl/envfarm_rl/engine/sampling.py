"""The one operator from logits to a law, and exact verification of drafted tokens under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from envfarm.core.errors import ConfigError, Reason


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Temperature 0 means the likeliest token."""

    temperature: float = 1.0
    top_k: int = 0
    """Tokens kept; 0 keeps all."""
    top_p: float = 1.0
    """Mass kept, by falling probability; the token that crosses it is kept."""

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ConfigError(
                f"{self} is not possible.",
                reason=Reason.config,
                phase="sampling",
                remedy="Give temperature >= 0, top_k >= 0 and 0 < top_p <= 1.",
            )


def law(logits: Tensor, sampling: Sampling, allowed: Tensor | None = None) -> Tensor:
    """``logits`` [..., V] -> probabilities [..., V] in fp32: mask, temperature, top-k, top-p, in that order.

    ``allowed`` (bool, [..., V]) is a validity mask; at least one token of each row must be allowed. With and without
    speculation the same function makes the law, so that the two draw from the same one.
    """
    scores = logits.float()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    if sampling.temperature == 0:
        return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
    if sampling.temperature != 1:
        scores = scores / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, float("-inf"))
    probabilities = scores.softmax(-1)
    if sampling.top_p < 1:
        falling, order = probabilities.sort(-1, descending=True)
        before = falling.cumsum(-1) - falling
        kept = torch.zeros_like(probabilities).scatter_(-1, order, falling.masked_fill(before >= sampling.top_p, 0.0))
        probabilities = kept / kept.sum(-1, keepdim=True)
    return probabilities


@dataclass(frozen=True)
class Mixed:
    """The laws of a batch whose rows are not all drawn from in the same way."""

    groups: Sequence[tuple[Sampling, Tensor]]
    """Each sampling with its rows; every row is in one of them."""

    @staticmethod
    def of(samplings: Sequence[Sampling], device: torch.device) -> Mixed:
        """Rows in the order of ``samplings``."""
        rows: dict[Sampling, list[int]] = {}
        for row, sampling in enumerate(samplings):
            rows.setdefault(sampling, []).append(row)
        return Mixed([(sampling, torch.tensor(each, device=device)) for sampling, each in rows.items()])

    def cooled(self, factor: float) -> Mixed:
        """With each temperature multiplied."""
        if factor == 1:
            return self
        return Mixed([(replace(each, temperature=each.temperature * factor), rows) for each, rows in self.groups])

    def laws(self, logits: Tensor, allowed: Tensor | None = None) -> Tensor:
        """:func:`law` of each row of ``logits`` [B, ..., V]."""
        if len(self.groups) == 1:
            return law(logits, self.groups[0][0], allowed)
        found = torch.empty(logits.shape, device=logits.device)
        for sampling, rows in self.groups:
            found[rows] = law(logits[rows], sampling, None if allowed is None else allowed[rows])
        return found


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """One token from each law [..., V] by inversion, given ``uniforms`` [...] in [0, 1) -> [...].

    The token is the first whose cumulated mass exceeds the uniform's share of the whole: never one of mass 0.
    """
    mass = probabilities.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(mass, uniforms.double()[..., None] * mass[..., -1:], right=True)[..., 0]
    # Beyond the last only where the law is not a number: a drafting head that is broken costs speed, nothing else.
    return found.clamp_max(probabilities.shape[-1] - 1)


_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_PER_TOKEN = 256


def uniforms(seeds: Tensor, emitted: Tensor, count: int) -> Tensor:
    """``count`` (at most 256) uniforms in [0, 1), [B, count] in fp64, for the token after ``emitted`` [B] ones.

    A function of each row's seed (int64 [B]) and place alone, so that a row draws the same in any batch: SplitMix64
    (Steele et al. 2014) as a counter-based generator (Salmon et al. 2011).
    """
    counters = emitted[:, None] * _PER_TOKEN + torch.arange(1, count + 1, device=emitted.device)
    bits = _mix(_mix(seeds[:, None] + _GOLDEN) + counters * _GOLDEN)
    # 52 bits: the largest value times any mass stays below that mass in fp64.
    return _shifted(bits, 12).double() * 2.0**-52


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    # int64 shifts carry the sign: mask what it brings in.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


@dataclass(frozen=True)
class Verified:
    """What one verification gives to each sequence."""

    tokens: Tensor
    """[B, k + 1]: accepted drafts, then one token from the target; what follows is to be ignored."""
    accepted: Tensor
    """[B]: drafts accepted, 0..k. ``accepted + 1`` tokens were emitted."""


def verify(drafts: Tensor, proposal: Tensor, target: Tensor, uniforms: Tensor) -> Verified:
    """Accept a prefix of ``drafts`` [B, k] such that what is emitted follows ``target`` exactly.

    ``proposal`` [B, k, V] is the law each draft was drawn from (a one-hot row for a draft that was chosen, not drawn),
    ``target`` [B, k + 1, V] the law of the policy at each place, ``uniforms`` [B, k + 1] fresh ones in [0, 1). A draft
    is accepted with probability ``min(1, p / q)``; at the first refusal the token comes from the normalised
    ``max(p - q, 0)``, after the last acceptance from the target's next law (Leviathan et al. 2023, arXiv 2211.17192).
    """
    batch, length = drafts.shape
    if length == 0:
        return Verified(draw(target, uniforms), torch.zeros(batch, dtype=torch.long, device=target.device))
    p = target[:, :length].gather(-1, drafts[..., None])[..., 0]
    q = proposal.gather(-1, drafts[..., None])[..., 0]
    # u * q < p, not u < p / q: no division by a tiny q.
    taken = uniforms[:, :length] * q < p
    accepted = taken.long().cumprod(-1).sum(-1)
    rows = torch.arange(batch, device=target.device)
    refused = (accepted < length)[:, None]
    at = target[rows, accepted]
    residual = (at - proposal[rows, accepted.clamp_max(length - 1)] * refused).clamp_min(0.0)
    # Rounding may leave nothing where p and q are equal: then a refusal had probability zero up to rounding too.
    residual = torch.where(residual.sum(-1, keepdim=True) > 0, residual, at)
    tokens = torch.cat((drafts, drafts.new_zeros(batch, 1)), dim=-1)
    tokens[rows, accepted] = draw(residual, uniforms[:, length])
    return Verified(tokens, accepted)
