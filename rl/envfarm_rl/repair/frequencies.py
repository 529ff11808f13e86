"""The blind baseline of repair: how often a change is the right one, whatever the page says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from .corpus import Example
from .problem import Edit, Problem

_WORDS = frozenset({"and", "or", "not", "in", "is", "True", "False", "None", "break", "continue", "if", "elif"})
_LONGEST = 8


class Frequencies:
    """Learned from a corpus: of all offers of a change (``==`` to ``!=``, say), the share that undid a bug. Names and
    other long texts count as one."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._right: Counter[tuple[str, str]] = Counter()
        self._offered: Counter[tuple[str, str]] = Counter()
        for example in examples:
            for index, edit in enumerate(example.problem.edits):
                self._offered[_change(edit)] += 1
                self._right[_change(edit)] += index in example.gold

    def law(self, problem: Problem, temperature: float = 1.0) -> Tensor:
        """Probabilities [edits]: shares (with a little added for what was never seen), sharpened, made to sum to 1."""
        shares = [(self._right[key] + 0.1) / (self._offered[key] + 1.0) for key in map(_change, problem.edits)]
        return (torch.tensor(shares).log() / max(temperature, 1e-3)).softmax(-1)


def _change(edit: Edit) -> tuple[str, str]:
    old = edit.old if edit.old in _WORDS or (len(edit.old) < _LONGEST and not edit.old.isidentifier()) else "name"
    return old, edit.new if len(edit.new) < _LONGEST else "name"
