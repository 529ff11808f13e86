"""The losses of a bring-up, and what they read of a batch: tensors alone, so that other processes can make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..chains.packing import Packed, pack
from ..policy import MiMo
from ..samples import is_forced
from .bringup import Item


@dataclass(frozen=True, slots=True)
class Read:
    """N places of packed rows, and what is to be read off the state there."""

    rows: Tensor
    places: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class PageBatch:
    """B rows of T nodes, as :class:`~..chains.packing.Packed` lays them out."""

    tokens: Tensor
    positions: Tensor
    last: Tensor
    """[B, T]: the last node of the row that descends from each, -1 for padding. A row holds its tree in preorder, so
    that this says who sees whom in T numbers where a mask has T squared."""
    answers: Read
    """The choices of right answers: targets are tokens."""
    owner: Tensor
    """[choices]: which right answer each is of."""
    within: Tensor
    """[M, 2]: each token that was valid at a choice, as (choice, token)."""
    samples: int
    """Right answers."""
    page: Read
    """What stands before first answers, each node once: targets are tokens."""
    marks: Read
    """Ends of listed lines: targets are 1 where a bug is on the line."""

    def allowed(self) -> Tensor:
        """bool [B, T, T]: who sees whom."""
        at = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (at[None, :] <= at[:, None]) & (at[:, None] <= self.last[:, None, :])

    def to(self, device: torch.device | str) -> PageBatch:
        """The same on another device."""
        return replace(self, **{field.name: _to(getattr(self, field.name), device) for field in fields(self)})


def _to(value: object, device: torch.device | str) -> object:
    if isinstance(value, Read):
        return Read(*(getattr(value, field.name).to(device) for field in fields(value)))
    return value.to(device) if isinstance(value, Tensor) else value


def collate(items: Sequence[Item]) -> PageBatch:
    """A batch of encoded examples."""
    samples = [sample for item in items for sample in item.samples]
    packed = pack(samples, row_tokens=max(item.tokens + 48 * (len(item.samples) - 1) for item in items))
    free = [at for at, support in enumerate(packed.supports) if not is_forced(support)]
    within = [(place, token) for place, at in enumerate(free) for token in packed.supports[at] or ()]
    nodes = torch.arange(packed.tokens.shape[1], dtype=torch.int16)
    return PageBatch(
        tokens=packed.tokens,
        positions=packed.positions,
        last=torch.where(packed.allowed, nodes[:, None], -1).amax(1),
        answers=Read(packed.rows[free], packed.reads[free], packed.targets[free]),
        owner=packed.sample[free],
        within=torch.tensor(within),
        samples=len(samples),
        page=_page(packed),
        marks=_marks(items, packed),
    )


def _page(packed: Packed) -> Read:
    rows, reads, targets = [], [], []
    seen: set[tuple[int, int]] = set()
    for chain in packed.chains:
        nodes = chain.nodes[: chain.sample.action.index(True)]
        first = chain.row, int(nodes[0])
        if first in seen:
            continue
        seen.add(first)
        rows.append(torch.full((len(nodes) - 1,), chain.row))
        reads.append(nodes[:-1])
        targets.append(packed.tokens[chain.row, nodes[1:]])
    return Read(torch.cat(rows), torch.cat(reads), torch.cat(targets))


def _marks(items: Sequence[Item], packed: Packed) -> Read:
    rows, places, labels, first = [], [], [], 0
    for item in items:
        chain = packed.chains[first]
        first += len(item.samples)
        rows += [chain.row] * len(item.marks)
        places += [int(chain.nodes[at]) for at, _ in item.marks]
        labels += [int(bug) for _, bug in item.marks]
    return Read(torch.tensor(rows), torch.tensor(places), torch.tensor(labels))


_WORTH = 4.0
"""Weight of an expected reward: where p is a quarter its gradient is that of the likelihood."""


@dataclass(frozen=True, slots=True)
class BringupLoss:
    """Means over a batch, in nats."""

    answer: Tensor
    """Of right answers, p being the chance that one is drawn: -log p, or -4 p for a share of it."""
    page: Tensor
    """Of the tokens of the page."""
    mark: Tensor
    """At the end of each line: whether a bug is on it."""


def bringup_loss(policy: MiMo, batch: PageBatch, mark: tuple[int, int], *, reward: float = 0.0) -> BringupLoss:
    """All parts. Of the answer's loss a share ``reward`` is the chance of the right answer itself in place of its
    logarithm: what reinforcement learning maximises where nothing else is rewarded, its policy gradient taken exactly,
    as the expectation over all valid answers in place of draws.

    ``mark`` are the ids that say at a line's end that all is well, and that a bug is on it: between
    these two alone the loss is taken. It tells ten times in a page what an answer tells once.

    An answer's loss is taken under the validity mask, the law that it will be drawn from."""
    hidden = policy.trunk(batch.tokens, batch.positions, allowed=batch.allowed()).hidden
    answers, marks = batch.answers, batch.marks
    scores = policy.logits(hidden[answers.rows, answers.places]).float()
    outside = torch.ones_like(scores, dtype=torch.bool)
    outside[batch.within[:, 0], batch.within[:, 1]] = False
    chosen = scores.masked_fill(outside, float("-inf")).log_softmax(-1).gather(-1, answers.targets[:, None])
    each = scores.new_zeros(batch.samples).index_add(0, batch.owner, chosen[:, 0])
    told = F.linear(policy.model.norm(hidden[marks.rows, marks.places]), policy.lm_head.weight[list(mark)])
    return BringupLoss(
        answer=-((1 - reward) * each + reward * _WORTH * each.exp()).sum() / batch.samples,
        page=F.cross_entropy(policy.logits(hidden[batch.page.rows, batch.page.places]).float(), batch.page.targets),
        mark=F.cross_entropy(told.float(), marks.targets),
    )
