"""Losses of the MTP heads: they learn to draft what the policy would say, and never move the policy.

Head k at place t reads the trunk's state there and token t+1+k, and predicts token t+2+k. Its teacher is the policy's
own law of that token, read at place t+1+k. Both are taken at the sampling temperature and on the token's support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from envfarm.core.errors import Reason, TrainerError

from ..chains.logprobs import CHUNK_ELEMENTS, check_trainable, law_logits
from ..chains.packing import Chain, Packed
from ..engine.sampling import Sampling
from ..policy import MiMo
from ..samples import Sample, Support, is_forced


class HeadLossKind(StrEnum):
    """With P the teacher's law, q the head's and a = sum min(P, q) the chance that a draft is accepted."""

    cross_entropy = "cross_entropy"
    """-log q(x) of the token that followed."""
    soft_cross_entropy = "soft_cross_entropy"
    """-sum P log q."""
    tv = "tv"
    """1 - a. Has no gradient where P and q do not overlap: warm up with a cross-entropy."""
    e2e_tv = "e2e_tv"
    """1 - a_1 ... a_k for the k-th head: over all heads, the drafts that verification is expected to lose."""


@dataclass(frozen=True, slots=True)
class HeadStats:
    """Sums for each head, over the places where it was trained; those of micro-batches are added with ``+``."""

    places: tuple[float, ...]
    overlap: tuple[float, ...]
    """Of a: what rejection sampling accepts."""
    one_hot: tuple[float, ...]
    """Of P at the head's likeliest token: what a draft that is chosen, not drawn, has accepted."""

    def __add__(self, other: HeadStats) -> HeadStats:
        return HeadStats(
            *(
                tuple(a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True))
                for name in self.__slots__
            )
        )

    def metrics(self) -> dict[str, float]:
        """Mean acceptance of each head, by name."""
        found: dict[str, float] = {}
        for head, places in enumerate(self.places):
            found[f"head_{head}_overlap"] = self.overlap[head] / max(places, 1.0)
            found[f"head_{head}_one_hot"] = self.one_hot[head] / max(places, 1.0)
        return found


def usable_heads(action: Sequence[bool], heads: int) -> list[int]:
    """How many heads are trained at each place t of a chain: head k is where tokens t+2 ... t+2+k were all emitted by
    the policy. Token t+1 may be heard: the first drafts of an answer follow the last token of its prompt."""
    run, runs = 0, [0] * (len(action) + 2)
    for place in reversed(range(len(action))):
        run = run + 1 if action[place] else 0
        runs[place] = run
    return [min(runs[place + 2], heads) for place in range(len(action))]


def head_places(samples: Sequence[Sample], heads: int) -> int:
    """Pairs of place and head that are trained: the denominator over a whole batch."""
    return sum(sum(usable_heads(sample.action, heads)) for sample in samples)


def head_loss(
    policy: MiMo,
    hidden: Tensor,
    packed: Packed,
    sampling: Sampling,
    kind: HeadLossKind,
    *,
    denominator: float,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, HeadStats]:
    """The sum over trained pairs of place and head, over ``denominator`` (see :func:`head_places`), and statistics.

    ``hidden`` [B, T, width] are the trunk's states of ``packed``. Trunk, embedding and ``lm_head`` get no gradient.
    Where no pair is trained the loss is a constant 0. Raises ``TrainerError`` where it is not finite, and what
    ``check_trainable`` raises.
    """
    check_trainable(sampling)
    heads, hidden = len(policy.heads), hidden.detach()
    places: list[tuple[Chain, int, int]] = []
    # Where all that is predicted was forced, every draft is accepted and nothing is learned: counted, not computed.
    forced = [0.0] * heads
    for chain in packed.chains:
        for place, usable in enumerate(usable_heads(chain.sample.action, heads)):
            if all(is_forced(chain.sample.supports[place + 2 + k]) for k in range(usable)):
                forced = [count + (k < usable) for k, count in enumerate(forced)]
            else:
                places.append((chain, place, usable))
    if not places:
        return hidden.new_zeros(()), HeadStats(*((tuple(forced),) * 3))
    drafts = _drafts(policy, hidden, packed.chains, places)
    teachers, targets, supports = _teachers(hidden, places, heads)
    trained = torch.tensor([[k < usable for k in range(heads)] for _, _, usable in places], device=hidden.device)
    totals: list[Tensor] = []
    sums = torch.tensor(forced, dtype=torch.float64, device=hidden.device).repeat(3, 1)
    size = max(1, chunk_elements // (heads * policy.config.vocab_size))
    for start in range(0, len(places), size):
        at = slice(start, start + size)
        each = [support for row in supports[at] for support in row]

        def piece(states: Tensor, at: slice = at, each: Sequence[Support] = each) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                teacher = law_logits(policy.logits(teachers[at]).flatten(0, 1), sampling, each).softmax(-1)
            logits = F.linear(states, policy.lm_head.weight.detach()).flatten(0, 1)
            student = law_logits(logits, sampling, each).log_softmax(-1)
            return losses(kind, teacher, student, targets[at], trained[at])

        if size < len(places):
            total, overlap, one_hot = checkpoint(piece, drafts[at], use_reentrant=False)  # pyright: ignore
        else:
            total, overlap, one_hot = piece(drafts)
        totals.append(total)
        counted = trained[at].double()
        sums += torch.stack((counted.sum(0), (overlap * counted).sum(0), (one_hot * counted).sum(0)))
    loss = torch.stack(totals).sum() / denominator
    if not torch.isfinite(loss):
        raise TrainerError(
            f"The loss {kind} of the heads is not finite.",
            reason=Reason.not_finite,
            phase="head loss",
            remedy="Resume from the last stable checkpoint with a smaller learning rate of the heads.",
        )
    return loss, HeadStats(*(tuple(row) for row in sums.tolist()))


def _drafts(policy: MiMo, hidden: Tensor, chains: Sequence[Chain], places: Sequence[tuple[Chain, int, int]]) -> Tensor:
    """What ``lm_head`` takes from each head at each place: [places, heads, width].

    Heads run over chains, not over the packed tree: the input at a node is a token further down, of which a fork has
    several, and keys before a fork differ with it too. All but the window before a chain's first action is skipped.
    """
    heads = policy.heads
    starts = {chain.index: max(0, chain.sample.action.index(True) - 1 - policy.config.window) for chain in chains}
    row_of = {chain.index: row for row, chain in enumerate(chains)}
    width = max(len(chain.sample.tokens) - starts[chain.index] for chain in chains)
    tokens, nodes, positions = (torch.zeros(len(chains), width, dtype=torch.long) for _ in range(3))
    for row, chain in enumerate(chains):
        start = starts[chain.index]
        length = len(chain.sample.tokens) - start
        tokens[row, :length] = torch.tensor(chain.sample.tokens[start:])
        nodes[row, :length] = chain.nodes[start:]
        positions[row] = torch.arange(start, start + width)
    tokens, nodes, positions = (each.to(hidden.device) for each in (tokens, nodes, positions))
    rows = torch.tensor([chain.row for chain in chains], device=hidden.device)
    states, embedded = hidden[rows[:, None], nodes], policy.embed(tokens).detach()
    at_rows = torch.tensor([row_of[chain.index] for chain, _, _ in places], device=hidden.device)
    at = torch.tensor([place - starts[chain.index] for chain, place, _ in places], device=hidden.device)
    found: list[Tensor] = []
    for k, head in enumerate(heads):
        length = max(width - 1 - k, 1)
        ahead = torch.roll(embedded, -1 - k, dims=1)[:, :length]
        # Places near a chain's end that have no use for this head read its last one, and are masked later.
        out = head(states[:, :length], ahead, positions[:, :length])
        found.append(out[at_rows, at.clamp_max(length - 1)])
    return torch.stack(found, dim=1)


def _teachers(
    hidden: Tensor, places: Sequence[tuple[Chain, int, int]], heads: int
) -> tuple[Tensor, Tensor, list[list[Support]]]:
    """For each place and head: the trunk's state [places, heads, width] that the teacher's law is read from, the token
    that followed [places, heads], and its support. Where the head is not trained, any that exists will do."""
    rows = torch.tensor([chain.row for chain, _, _ in places], device=hidden.device)
    nodes: list[list[int]] = []
    targets: list[list[int]] = []
    supports: list[list[Support]] = []
    for chain, place, usable in places:
        predicted = [place + 2 + min(k, usable - 1) for k in range(heads)]
        nodes.append([int(chain.nodes[at - 1]) for at in predicted])
        targets.append([chain.sample.tokens[at] for at in predicted])
        supports.append([chain.sample.supports[at] for at in predicted])
    index = torch.tensor(nodes, device=hidden.device)
    return hidden[rows[:, None], index], torch.tensor(targets, device=hidden.device), supports


def losses(
    kind: HeadLossKind, teacher: Tensor, student: Tensor, targets: Tensor, trained: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``teacher`` (law) and ``student`` (log-law) [places * heads, V] -> the sum of losses, and for each place and head
    the overlap and the one-hot acceptance [places, heads]."""
    shape = targets.shape
    overlap = torch.minimum(teacher, student.exp()).sum(-1).view(shape)
    match kind:
        case HeadLossKind.cross_entropy:
            found = -student.gather(-1, targets.view(-1, 1)).view(shape)
        case HeadLossKind.soft_cross_entropy:
            # Off the support P is 0 and log q is -inf.
            found = -(teacher * student.masked_fill(teacher == 0, 0.0)).sum(-1).view(shape)
        case HeadLossKind.tv:
            found = 1 - overlap
        case HeadLossKind.e2e_tv:
            found = 1 - overlap.cumprod(-1)
    one_hot = teacher.gather(-1, student.argmax(-1, keepdim=True)).view(shape)
    return found.masked_fill(~trained, 0.0).sum(), overlap.detach(), one_hot.detach()
