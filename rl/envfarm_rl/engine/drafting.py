"""Drafts from the MTP heads, and the temperature at which each head drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..policy import MiMo
from .batch import Batch
from .sampling import Mixed, Sampling, draw, law


@dataclass(frozen=True)
class Drafts:
    """What was drafted for each row, and from which laws."""

    tokens: Tensor
    """[B, k]"""
    laws: Tensor
    """[B, k, V]"""
    logits: Sequence[Tensor]
    """Of each depth [B, V], before mask and temperature."""
    allowed: Sequence[Tensor | None]
    """Of each depth and of the token after the drafts: [B, V], None where all are."""

    def masks(self) -> Tensor | None:
        """All of ``allowed`` together: [B, k + 1, V]."""
        given = [mask for mask in self.allowed if mask is not None]
        if not given:
            return None
        every = torch.ones_like(given[0])
        return torch.stack([every if mask is None else mask for mask in self.allowed], 1)


def catch_up(policy: MiMo, batch: Batch, k: int) -> bool:
    """Run the first ``k`` heads over what rows lack beyond the few positions that each step adds: prompts of rows that
    have just joined, and what went by while nothing was drafted; older positions than their window are skipped. Gives
    whether any row had begun: what only joined is part of running its prompt."""
    size = len(batch.rows)
    behind = batch.behind(k)
    tardy = behind > batch.caught.shape[1] + 1
    if not bool(tardy.any()):
        return False
    # Rows that have just joined come last: the others need not be padded to their length.
    first = int(tardy.nonzero()[0])
    behind, known = behind[first:], batch.lengths[first:size] - 1
    rest = behind.clamp_max(max(k - 1, 1))
    positions, states = batch.memory.begin_head(first, known - behind, behind - rest)
    for depth in range(k):
        read = batch.embedded(first, positions, depth)
        policy.heads[depth](states, read, positions, batch.memory.heads[depth], last=True)
    batch.caught[first:size, :k] = (known - rest)[:, None]
    return bool((tardy & (batch.emitted[:size] > 0)).any())


def draft(policy: MiMo, batch: Batch, factors: Sequence[float], uniforms: Tensor) -> Drafts:
    """Draft ``k`` tokens for each row from ``uniforms`` [B, k]: head ``j`` at the last known trunk state reads draft
    ``j`` and gives the law of draft ``j + 1``, at the target's temperature times ``factors[j]``.

    A head's keys and values of a position are a function of the trunk's state there and of the token ``1 + j`` further.
    So where that token was a draft which was refused they are computed again. All heads run over the same positions,
    from where the furthest behind of them must begin, and have caught up before (:func:`catch_up`): only the last one
    of these is more than keys and values.
    """
    size, k = uniforms.shape
    tokens: list[Tensor] = []
    laws: list[Tensor] = []
    logits: list[Tensor] = []
    allowed: list[Tensor | None] = []
    heads, memory = policy.heads, batch.memory
    if not k:
        nothing = torch.zeros(size, 0, dtype=torch.long, device=batch.device)
        none = torch.zeros(size, 0, policy.config.vocab_size, device=batch.device)
        return Drafts(nothing, none, logits, [batch.allowed()])
    behind = batch.behind(k)
    positions, states = memory.begin_head(0, batch.lengths[:size] - 1 - behind, behind)
    places = heads[0].places(positions)
    for depth in range(k):
        allowed.append(batch.allowed())
        out = heads[depth](states, batch.embedded(0, positions, depth), places, memory.heads[depth], last=True)
        logits.append(policy.lm_head(out[:, 0]))
        laws.append(batch.laws.cooled(factors[depth]).laws(logits[-1], allowed[-1]))
        tokens.append(draw(laws[-1], uniforms[:, depth]))
        batch.drafted(tokens[-1], depth)
    allowed.append(batch.allowed())
    return Drafts(torch.stack(tokens, 1), torch.stack(laws, 1), logits, allowed)


GRID = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
"""Factors on the target's temperature; 0 drafts the likeliest token."""
_ROWS, _ENOUGH, _DECAY = 16, 48, 0.98


class DraftTemperature:
    """Chooses each head's factor from positions verified before: the one at which ``sum min(p, q)``, the chance that a
    draft is accepted, was largest on average. What is drawn from stays exact, as the choice never sees its own draws.
    """

    def __init__(self, max_draft: int) -> None:
        self.factors = [1.0] * max_draft
        self._overlap = [[0.0] * len(GRID) for _ in range(max_draft)]
        self._seen = [0.0] * max_draft

    def observe(self, drafts: Drafts, target: Tensor, accepted: Tensor, laws: Mixed) -> None:
        """Note a few rows of one verification: ``target`` [B, k + 1, V], ``accepted`` [B] on the same device. At a
        depth only rows whose earlier drafts were all accepted tell anything."""
        for sampling, rows in laws.groups:
            if sampling.temperature == 0:
                continue
            for depth, logits in enumerate(drafts.logits):
                chosen = rows[accepted[rows] >= depth][:_ROWS]
                if len(chosen):
                    mask = drafts.allowed[depth]
                    mask = None if mask is None else mask[chosen]
                    self._add(depth, overlaps(logits[chosen], target[chosen, depth], sampling, mask), len(chosen))

    def _add(self, depth: int, found: Tensor, count: int) -> None:
        means = self._overlap[depth]
        for place, total in enumerate(found.tolist()):
            means[place] = _DECAY * means[place] + total
        self._seen[depth] = _DECAY * self._seen[depth] + count

    def choose(self) -> None:
        """Set the factors by what was seen so far."""
        for depth, totals in enumerate(self._overlap):
            if self._seen[depth] >= _ENOUGH:
                self.factors[depth] = GRID[max(range(len(GRID)), key=totals.__getitem__)]

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for :meth:`load_state_dict`."""
        return {"factors": [*self.factors], "overlap": [[*each] for each in self._overlap], "seen": [*self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.factors, self._seen = [*state["factors"]], [*state["seen"]]
        self._overlap = [[*each] for each in state["overlap"]]


def overlaps(logits: Tensor, target: Tensor, sampling: Sampling, allowed: Tensor | None) -> Tensor:
    """``sum min(p, q)`` over the vocabulary, for each factor of :data:`GRID`, summed over rows: [len(GRID)].

    ``logits`` [n, V] are a head's, ``target`` [n, V] the policy's law at the same place."""
    warm = torch.tensor(GRID[1:], device=logits.device)
    laws = law(logits[None] / warm[:, None, None], sampling, allowed)
    likeliest = target.gather(-1, laws[-1].argmax(-1, keepdim=True)).sum()
    return torch.cat((likeliest[None], torch.minimum(laws, target).sum((1, 2))))
