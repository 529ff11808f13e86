"""The one operator from logits to a law, and exact verification of drafted tokens under it."""

from __future__ import annotations

from dataclasses import dataclass

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


def draw(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One token from each law [..., V] -> [...]."""
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    return torch.multinomial(flat, 1, generator=generator).view(probabilities.shape[:-1])


@dataclass(frozen=True)
class Verified:
    """What one verification gives to each sequence."""

    tokens: Tensor
    """[B, k + 1]: accepted drafts, then one token from the target; what follows is to be ignored."""
    accepted: Tensor
    """[B]: drafts accepted, 0..k. ``accepted + 1`` tokens were emitted."""


def verify(drafts: Tensor, proposal: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Verified:
    """Accept a prefix of ``drafts`` [B, k] such that what is emitted follows ``target`` exactly.

    ``proposal`` [B, k, V] is the law each draft was drawn from (a one-hot row for a draft that was chosen, not drawn),
    ``target`` [B, k + 1, V] the law of the policy at each place. A draft is accepted with probability
    ``min(1, p / q)``; at the first refusal the token comes from the normalised ``max(p - q, 0)``, after the last
    acceptance from the target's next law (Leviathan et al. 2023, arXiv 2211.17192).
    """
    batch, length = drafts.shape
    if length == 0:
        return Verified(draw(target, generator), torch.zeros(batch, dtype=torch.long))
    p = target[:, :length].gather(-1, drafts[..., None])[..., 0]
    q = proposal.gather(-1, drafts[..., None])[..., 0]
    # u * q < p, not u < p / q: no division by a tiny q.
    taken = torch.rand(batch, length, generator=generator) * q < p
    accepted = taken.long().cumprod(-1).sum(-1)
    rows = torch.arange(batch)
    refused = (accepted < length)[:, None]
    places = accepted.clamp_max(length - 1)
    residual = (target[rows, accepted] - proposal[rows, places] * refused).clamp_min(0.0)
    mass = residual.sum(-1, keepdim=True)
    # Rounding may leave nothing where p and q are equal: then a refusal had probability zero up to rounding too.
    residual = torch.where(mass > 0, residual / mass.clamp_min(torch.finfo(mass.dtype).tiny), target[rows, accepted])
    tokens = torch.cat((drafts, drafts.new_zeros(batch, 1)), dim=-1)
    tokens[rows, accepted] = draw(residual, generator)
    return Verified(tokens, accepted)
