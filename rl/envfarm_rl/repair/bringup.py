"""Supervised bring-up of a tiny policy: planted bugs, the edit that undoes each, and the page itself as text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.sampling import Sampling
from ..policy import MiMo
from ..samples import Sample
from ..text.tokenizer import TinyTokenizer
from ..trainer.logprobs import action_logprobs, run_trunk
from ..trainer.packing import Packed, pack
from .corpus import Example
from .encode import edit_samples
from .episodes import episode_sample, with_test


@dataclass(frozen=True, slots=True)
class Item:
    """An example as samples: one for each bug on the page."""

    example: Example
    samples: tuple[Sample, ...]
    tokens: int
    """Of the longest."""
    marks: tuple[tuple[int, bool], ...]
    """Where in the prompt each listed line ends, and whether a bug is on it."""


def encode_example(
    tokenizer: TinyTokenizer, example: Example, rng: random.Random, *, max_tokens: int, episodes: float
) -> Item | None:
    """The example, or None where its page is longer than ``max_tokens`` or it offers no choice. With a chance of
    ``episodes`` one that has a single bug becomes a whole episode, which may be twice as long."""
    if len(example.gold) == 1 and rng.random() < episodes:
        samples = [episode_sample(tokenizer, example, rng)]
        limit = 2 * max_tokens
    else:
        told = rng.random() < _TOLD
        problem = with_test(example.problem, rng) if told else example.problem
        samples = edit_samples(tokenizer, problem, example.gold)
        limit = max_tokens
    longest = max((len(sample.tokens) for sample in samples), default=0)
    if not samples or longest > limit:
        return None
    bugs = {example.problem.edits[index].line for index in example.gold}
    prompt = samples[0].tokens[: samples[0].action.index(True)]
    ends = ((place, tokenizer.listed(token)) for place, token in enumerate(prompt))
    return Item(example, tuple(samples), longest, tuple((at, line in bugs) for at, line in ends if line is not None))


_TOLD = 0.5
"""Share of single pages on which something is said of a failing test."""


def batches(items: Sequence[Item], *, tokens: int, seed: int) -> Iterator[list[Item]]:
    """One pass in random order, in batches of about ``tokens`` padded tokens, items of like length together."""
    rng = random.Random(seed)
    order = list(items)
    rng.shuffle(order)
    window = 64 * max(1, tokens // 256)
    found: list[list[Item]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda item: item.tokens)
        batch: list[Item] = []
        for item in part:
            if batch and (len(batch) + 1) * item.tokens > tokens:
                found.append(batch)
                batch = []
            batch.append(item)
        found.append(batch)
    rng.shuffle(found)
    yield from found


@dataclass(frozen=True, slots=True)
class BringupLoss:
    """Means over a batch, in nats."""

    answer: Tensor
    """Of the choices of a right answer, for each sample the sum over its choices."""
    page: Tensor
    """Of the tokens of the page."""
    mark: Tensor
    """At the end of each line: whether a bug is on it."""


def bringup_loss(policy: MiMo, batch: Sequence[Item], mark: tuple[int, int]) -> BringupLoss:
    """All parts. ``mark`` are the ids that say at a line's end that all is well, and that a bug is on it: between
    these two alone the loss is taken. It tells ten times in a page what an answer tells once.

    An answer's loss is taken under the validity mask, the law that it will be drawn from."""
    samples = [sample for item in batch for sample in item.samples]
    packed = pack(samples, row_tokens=max(item.tokens + 48 * (len(item.samples) - 1) for item in batch))
    hidden = run_trunk(policy, packed).hidden
    chosen = action_logprobs(policy, hidden, packed, Sampling())
    return BringupLoss(
        answer=-chosen.sum() / len(samples),
        page=page_loss(policy, hidden, packed),
        mark=mark_loss(policy, hidden, packed, batch, mark),
    )


def mark_loss(policy: MiMo, hidden: Tensor, packed: Packed, batch: Sequence[Item], mark: tuple[int, int]) -> Tensor:
    """Mean over the listed lines of all pages."""
    rows, places, labels, first = [], [], [], 0
    for item in batch:
        chain = packed.chains[first]
        first += len(item.samples)
        rows += [chain.row] * len(item.marks)
        places += [int(chain.nodes[at]) for at, _ in item.marks]
        labels += [int(bug) for _, bug in item.marks]
    states = policy.model.norm(hidden[rows, places])
    return F.cross_entropy(F.linear(states, policy.lm_head.weight[list(mark)]).float(), torch.tensor(labels))


def page_loss(policy: MiMo, hidden: Tensor, packed: Packed) -> Tensor:
    """Mean next-token loss over what samples hold before their first action, each node once."""
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
    logits = policy.logits(hidden[torch.cat(rows), torch.cat(reads)])
    return F.cross_entropy(logits.float(), torch.cat(targets))
