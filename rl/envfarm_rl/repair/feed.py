"""Batches of a bring-up, made beside it by other processes where the trainer is faster than one can make them."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from ..samples import Sample
from ..text.tokenizer import TinyTokenizer, load_tokenizer
from .bringup import Item, batches, encode_example
from .corpus import decode, read_lines
from .encode import whole_sample
from .loss import PageBatch, collate
from .recipe import StepsSection

_AHEAD = 2
"""Chunks under way for each process beside the one it is making."""

Batch = PageBatch | list[Sample]
"""What the trunk trains on, or whole answers for the MTP heads."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What is fed, without end: batch ``place`` of chunk ``number``. What a chunk holds follows from its number, so a
    resumed run goes on with the next batch, and any number of ``workers`` makes the same ones."""

    files: Sequence[Path]
    tokenizer: Path
    steps: StepsSection
    workers: int = 0
    """Processes beside this one; 0 makes batches here."""
    examples: int = 500
    """Of a chunk."""

    def batches(self, number: int, place: int, *, heads: bool = False) -> Generator[tuple[int, int, Batch]]:
        """Each batch with its chunk and place, from there on; for the ``heads``, whole answers."""
        for chunk, found in self._chunks(number, heads):
            for at in range(place, len(found)):
                yield chunk, at, found[at]
            place = 0

    def _chunks(self, number: int, heads: bool) -> Iterator[tuple[int, list[Batch]]]:
        if not self.workers:
            maker = Maker(*self._parts)
            while True:
                yield number, maker.chunk(number, heads)
                number += 1
        # fresh processes: this one may have threads, or a GPU, which a fork would not take along
        pool = ProcessPoolExecutor(self.workers, get_context("spawn"), initializer=_start, initargs=self._parts)
        try:
            waiting: deque[tuple[int, Future[bytes]]] = deque()
            while True:
                while len(waiting) < (1 + _AHEAD) * self.workers:
                    ahead = number + len(waiting)
                    waiting.append((ahead, pool.submit(_make, ahead, heads)))
                number, made = waiting.popleft()
                yield number, pickle.loads(made.result())
                number += 1
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _parts(self) -> tuple[Sequence[Path], Path, StepsSection, int]:
        return self.files, self.tokenizer, self.steps, self.examples


class Maker:
    """Makes chunks."""

    def __init__(self, files: Sequence[Path], tokenizer: Path, steps: StepsSection, examples: int) -> None:
        self._lines = [line for path in files for line in read_lines(path)]
        self._tokenizer: TinyTokenizer = load_tokenizer(tokenizer)
        self._steps, self._examples = steps, examples

    def chunk(self, number: int, heads: bool) -> list[Batch]:
        """Its batches in order."""
        steps = self._steps
        rng = random.Random(f"{steps.seed} {number}")
        chosen = [decode(self._lines[rng.randrange(len(self._lines))]) for _ in range(self._examples)]
        encoded = (
            encode_example(self._tokenizer, each, rng, max_tokens=steps.longest, episodes=steps.episodes)
            for each in chosen
        )
        items = [item for item in encoded if item]
        tokens = steps.head_tokens if heads else steps.tokens
        found = batches(items, tokens=tokens, seed=rng.randrange(1 << 30))
        return [self._whole(batch) if heads else collate(batch) for batch in found]

    def _whole(self, batch: Sequence[Item]) -> list[Sample]:
        """Heads learn on whole answers: choices alone are no three tokens in a row."""
        return [whole_sample(self._tokenizer, item.example.problem, item.example.gold[0]) for item in batch]


_maker: Maker | None = None


def _start(files: Sequence[Path], tokenizer: Path, steps: StepsSection, examples: int) -> None:
    global _maker
    torch.set_num_threads(1)
    _maker = Maker(files, tokenizer, steps, examples)


def _make(number: int, heads: bool) -> bytes:
    """Pickled here: tensors sent one by one would take a descriptor each."""
    assert _maker is not None
    return pickle.dumps(_maker.chunk(number, heads))
