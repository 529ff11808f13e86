"""Log-probabilities of packed action tokens under the law that sampling follows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from envfarm.core.errors import ConfigError, Reason

from ..engine.sampling import Sampling
from ..policy import Forward, MiMo
from ..samples import Support, is_forced
from .packing import Packed

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once, tokens times vocabulary; more are computed in pieces, and again in the backward pass."""


def run_trunk(policy: MiMo, packed: Packed) -> Forward:
    """The trunk over packed rows: each node in the context of its ancestors, replaying routes where there are any."""
    routes = None
    if packed.routes is not None:
        replay = iter(packed.routes.unbind(2))
        routes = [next(replay) if routed else None for routed in policy.config.moe_layer_freq]
    return policy.trunk(packed.tokens, packed.positions, allowed=packed.allowed, routes=routes)


def token_logprobs(policy: MiMo, packed: Packed, sampling: Sampling) -> Tensor:
    """[N] log-probabilities of the action tokens, differentiable: trunk and :func:`action_logprobs` in one."""
    return action_logprobs(policy, run_trunk(policy, packed).hidden, packed, sampling)


def action_logprobs(
    policy: MiMo, hidden: Tensor, packed: Packed, sampling: Sampling, *, chunk_elements: int = CHUNK_ELEMENTS
) -> Tensor:
    """[N] log-probabilities (nats) of the action tokens, from trunk states ``hidden`` [B, T, width].

    A token's law is the softmax of logits over temperature on its support; a token that had no alternative has
    log-probability 0 and no gradient. Logits are computed only where they are read. Raises ``ConfigError`` for
    temperature 0, top-k and top-p.
    """
    check_trainable(sampling)
    # Under a validity mask most tokens of an answer are forced: those are not computed at all.
    free = [at for at, support in enumerate(packed.supports) if not is_forced(support)]
    supports = [packed.supports[at] for at in free]
    chosen = torch.tensor(free, dtype=torch.long, device=hidden.device)
    states, targets = hidden[packed.rows[chosen], packed.reads[chosen]], packed.targets[chosen]
    size = max(1, chunk_elements // policy.config.vocab_size)

    def piece(states: Tensor, at: slice) -> Tensor:
        scores = law_logits(policy.logits(states), sampling, supports[at])
        return scores.log_softmax(-1).gather(-1, targets[at, None])[:, 0]

    if len(states) <= size:
        found = piece(states, slice(None))
    else:
        slices = [slice(start, start + size) for start in range(0, len(states), size)]
        found = torch.cat([checkpoint(piece, states[at], at, use_reentrant=False) for at in slices])  # pyright: ignore
    return found.new_zeros(len(packed.targets)).index_copy(0, chosen, found)


def check_trainable(sampling: Sampling) -> None:
    """Raise ``ConfigError`` where the law that sampling followed has no gradient, or is not known from the samples:
    supports tell what a constraint allowed, not what top-k or top-p then left."""
    if sampling.temperature == 0 or sampling.top_k > 0 or sampling.top_p < 1:
        raise ConfigError(
            f"Tokens drawn with {sampling} cannot be trained.",
            reason=Reason.config,
            phase="training",
            remedy="Sample rollouts at a temperature above 0, with top_k 0 and top_p 1.",
        )


def law_logits(logits: Tensor, sampling: Sampling, supports: Sequence[Support]) -> Tensor:
    """``logits`` [n, V] -> those whose softmax is the law, in fp32 or wider: over temperature, -inf off the support."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32)) / sampling.temperature
    bound = [(row, support) for row, support in enumerate(supports) if support is not None]
    if not bound:
        return scores
    outside = torch.zeros(scores.shape, dtype=torch.bool)
    outside[[row for row, _ in bound]] = True
    within = torch.tensor([(row, token) for row, support in bound for token in support])
    outside[within[:, 0], within[:, 1]] = False
    return scores.masked_fill(outside.to(scores.device), float("-inf"))
