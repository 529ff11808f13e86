"""Chains packed into rows as trees: a shared prefix is computed once, and every action token is trained once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from envfarm.core.errors import Reason, TrainerError

from ..policy.attention import EMPTY
from ..samples import Sample, Support

NO_ROUTE = 255
"""Fills the experts of a token in ``Sample.routes`` where there is nothing to replay."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Where one sample lies."""

    index: int
    """Of the sample among those packed."""
    sample: Sample
    row: int
    nodes: Tensor
    """[len(sample.tokens)]: the place of each token in the row. On the CPU always: it is for bookkeeping."""


@dataclass(frozen=True, slots=True)
class Packed:
    """B rows of T nodes, and N action tokens, sorted by sample and place whatever the layout.

    A node sees itself and its ancestors; its position is its depth. Padding has position -1 and sees nothing.
    """

    tokens: Tensor
    """[B, T]."""
    positions: Tensor
    """[B, T]."""
    allowed: Tensor
    """bool [B, T, T]: who sees whom."""
    routes: Tensor | None
    """Experts to replay, [B, T, layers with experts, top_k]; None for live routing."""
    rows: Tensor
    """[N]: the row of each action token."""
    reads: Tensor
    """[N]: the place in the row of its predecessor, where its law is read."""
    targets: Tensor
    """[N]: the token itself."""
    behaviour: Tensor
    """[N]: its log-probability under the law that emitted it, in nats."""
    sample: Tensor
    """[N]: the index of its sample, in which it finds its advantage."""
    supports: tuple[Support, ...]
    """N of them: what each was drawn from."""
    chains: tuple[Chain, ...]
    """Of each sample, by index."""

    @property
    def nodes(self) -> int:
        """Tokens that are computed, padding not counted."""
        return int((self.positions > EMPTY).sum())

    @property
    def saved(self) -> int:
        """Tokens that separate rows would have computed and this packing does not."""
        return sum(len(chain.sample.tokens) for chain in self.chains) - self.nodes

    def parts(self, rows: int) -> Iterator[Packed]:
        """Micro-batches of at most ``rows`` rows. Samples keep their index, and each lies in one part."""
        for start in range(0, self.tokens.shape[0], rows):
            end = start + rows
            mine = ((self.rows >= start) & (self.rows < end)).nonzero()[:, 0]
            width = int((self.positions[start:end] > EMPTY).sum(-1).max())
            yield Packed(
                tokens=self.tokens[start:end, :width],
                positions=self.positions[start:end, :width],
                allowed=self.allowed[start:end, :width, :width],
                routes=None if self.routes is None else self.routes[start:end, :width],
                rows=self.rows[mine] - start,
                reads=self.reads[mine],
                targets=self.targets[mine],
                behaviour=self.behaviour[mine],
                sample=self.sample[mine],
                supports=tuple(self.supports[at] for at in mine.tolist()),
                chains=tuple(replace(each, row=each.row - start) for each in self.chains if start <= each.row < end),
            )

    def to(self, device: torch.device | str) -> Packed:
        """The same on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})


def pack(samples: Sequence[Sample], *, row_tokens: int) -> Packed:
    """Lay ``samples`` out in rows of at most ``row_tokens`` nodes.

    In lexicographic order, each sample goes to the row that holds most of its prefix and, among those, is left fullest:
    the layout does not depend on the order given. Two tokens share a node only where their prefixes, and the routes to
    replay, are equal. Raises ``TrainerError`` for no samples, one longer than a row, or one that cannot be trained.
    """
    if not samples:
        raise _refused("there are no samples", "Skip the step: nothing of it can be trained.")
    for index, sample in enumerate(samples):
        _check(index, sample, row_tokens)
    if len({None if s.routes is None else s.routes.shape[1:] for s in samples}) > 1:
        raise _refused("their routes differ in shape, or some have none", "Take them from engines of one kind.")
    rows = _assign(samples, row_tokens)
    return _lay_out(samples, rows)


def _check(index: int, sample: Sample, row_tokens: int) -> None:
    if len(sample.tokens) > row_tokens:
        raise _refused(
            f"sample {index} has {len(sample.tokens)} tokens and a row {row_tokens}",
            "Raise row_tokens, or shorten the context of rollouts.",
        )
    if not any(sample.action) or sample.action[0]:
        raise _refused(f"sample {index} has no action token, or one before any prompt", "Leave it out.")
    for token, action, support in zip(sample.tokens, sample.action, sample.supports, strict=True):
        if action and support is not None and token not in support:
            raise _refused(f"sample {index} has a token {token} outside its support", "Mend the engine.")
    # The last token of a chain was never fed to the policy, so it alone may lack a route: nothing reads its state.
    if sample.routes is not None and (sample.routes[:-1] == NO_ROUTE).all(-1).any():
        raise _refused(f"sample {index} lacks routes inside the chain", "Record them for all tokens, or for none.")


@dataclass(slots=True)
class _Row:
    used: int
    members: list[tuple[int, int]]
    """Samples, and how much of each is there already."""
    common: int
    """How much of the sample at hand is there already."""


def _assign(samples: Sequence[Sample], row_tokens: int) -> list[_Row]:
    keys = [_key(sample) for sample in samples]
    rows: list[_Row] = []
    last: list[tuple[int, bytes]] = []
    for index in sorted(range(len(samples)), key=keys.__getitem__):
        key = keys[index]
        common = _common(last, key)
        # In lexicographic order a prefix shared with any earlier key is shared with all keys in between.
        for row in rows:
            row.common = min(row.common, common)
        fitting = [row for row in rows if row.used + len(key) - row.common <= row_tokens]
        if fitting:
            home = max(fitting, key=lambda row: (row.common, row.used))
        else:
            home = _Row(0, [], 0)
            rows.append(home)
        home.members.append((index, home.common))
        home.used += len(key) - home.common
        home.common, last = len(key), key
    return rows


def _key(sample: Sample) -> list[tuple[int, bytes]]:
    if sample.routes is None:
        return [(token, b"") for token in sample.tokens]
    return [(token, route.numpy().tobytes()) for token, route in zip(sample.tokens, sample.routes, strict=True)]


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _lay_out(samples: Sequence[Sample], rows: Sequence[_Row]) -> Packed:
    shape = len(rows), max(row.used for row in rows)
    tokens = torch.zeros(shape, dtype=torch.long)
    positions = torch.full(shape, EMPTY)
    allowed = torch.zeros(*shape, shape[1], dtype=torch.bool)
    first = samples[0].routes
    routes = None if first is None else torch.zeros(*shape, *first.shape[1:], dtype=torch.long)
    chains: list[Chain] = []
    for number, row in enumerate(rows):
        used, nodes = 0, torch.empty(0, dtype=torch.long)
        for index, common in row.members:
            sample = samples[index]
            length = len(sample.tokens)
            new = slice(used, used + length - common)
            nodes = torch.cat((nodes[:common], torch.arange(new.start, new.stop)))
            tokens[number, new] = torch.tensor(sample.tokens[common:], dtype=torch.long)
            positions[number, new] = torch.arange(common, length)
            allowed[number, new, nodes[:common]] = True
            allowed[number, new, new] = torch.ones(length - common, length - common, dtype=torch.bool).tril()
            if routes is not None and sample.routes is not None:
                here = sample.routes[common:].long()
                routes[number, new] = here.masked_fill((here == NO_ROUTE).all(-1, keepdim=True), 0)
            chains.append(Chain(index, sample, number, nodes))
            used = new.stop
    chains.sort(key=lambda chain: chain.index)
    actions = [(chain, place) for chain in chains for place, action in enumerate(chain.sample.action) if action]
    return Packed(
        tokens=tokens,
        positions=positions,
        allowed=allowed,
        routes=routes,
        rows=torch.tensor([chain.row for chain, _ in actions]),
        reads=torch.tensor([int(chain.nodes[place - 1]) for chain, place in actions]),
        targets=torch.tensor([chain.sample.tokens[place] for chain, place in actions]),
        behaviour=torch.tensor([chain.sample.logprobs[place] for chain, place in actions]),
        sample=torch.tensor([chain.index for chain, _ in actions]),
        supports=tuple(chain.sample.supports[place] for chain, place in actions),
        chains=tuple(chains),
    )


def _refused(why: str, remedy: str) -> TrainerError:
    message = f"The samples cannot be packed: {why}."
    return TrainerError(message, reason=Reason.batch_unusable, phase="packing", remedy=remedy)
