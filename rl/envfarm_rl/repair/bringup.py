"""Examples of a bring-up as samples: planted bugs, and the edit that undoes each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..samples import Sample
from ..text.tokenizer import TinyTokenizer
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
