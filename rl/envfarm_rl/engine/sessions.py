"""What an engine keeps between the turns of a conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Remembered:
    """A sequence whose tokens need not be computed again."""

    tokens: Tensor
    """[N] on the CPU: those whose keys and values are known."""
    high: int
    """Positions ever written, rejected drafts included: rings hold nothing older than their size before it."""
    caught: Sequence[int]
    """How far each head's keys and values are right, in positions."""
    state: Sequence[Tensor]
    """See :meth:`Memory.save`."""
    routes: Tensor | None
    """uint8 [N, layers with experts, top_k]."""

    def common(self, prompt: Tensor, spare: int) -> int:
        """How many tokens of ``prompt`` [P] on the CPU can be taken from here: the longest common prefix, short of the
        last token (whose logits are needed), and 0 where rings made for taking back ``spare`` have lost what it
        needs."""
        longest = min(len(self.tokens), len(prompt) - 1)
        differing = (self.tokens[:longest] != prompt[:longest]).nonzero()
        length = int(differing[0]) if len(differing) else longest
        return length if length >= self.high - spare else 0


class Sessions:
    """Remembered sequences by session; the longest unused ones are dropped beyond ``capacity`` tokens."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[str, Remembered] = OrderedDict()
        self.tokens = 0
        """Tokens remembered now."""

    def get(self, session: str | None) -> Remembered | None:
        """What is known of it."""
        if session is None or session not in self._kept:
            return None
        self._kept.move_to_end(session)
        return self._kept[session]

    def put(self, session: str, remembered: Remembered) -> None:
        """Replace what is known of it."""
        self.forget(session)
        self._kept[session] = remembered
        self.tokens += len(remembered.tokens)
        while self.tokens > self._capacity:
            self.forget(next(iter(self._kept)))

    def forget(self, session: str) -> None:
        """Drop it, if there."""
        gone = self._kept.pop(session, None)
        self.tokens -= 0 if gone is None else len(gone.tokens)

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()
        self.tokens = 0


def as_tokens(prompt: Sequence[int]) -> Tensor:
    """[P] int64 on the CPU."""
    return torch.tensor(prompt, dtype=torch.long)
