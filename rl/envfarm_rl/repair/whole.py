"""Edits drawn as wholes: near temperature 0 the likeliest edits come one after the other, whatever their first tokens.

Token by token a low temperature stays with the likeliest *change* and goes through its lines, likely or not. The law of
whole edits is known (a page has few valid ones), so an edit is drawn from that, and then written under a mask that
holds nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envfarm.core.ids import stable_seed
from envfarm.core.rollout import Turn

from ..engine.sampling import draw
from ..text.trie import Trie
from .prompt import valid
from .protocol import make
from .world import ValidCalls, state_after


@dataclass(frozen=True)
class WholeEdits:
    """The validity mask of one episode, as an ``EnginePolicy`` takes it: where an edit is due, the one that was drawn;
    elsewhere all valid calls.

    ``law`` [edits] are log-probabilities of the edits as first answers to the page (``encode.edit_laws`` at 1). After
    an edit was taken back the tree is again what the page shows: what is left to draw from is the same law without the
    edits already made. ``temperature`` is that of whole edits: masses to the power of its inverse.
    """

    valid: ValidCalls
    law: Tensor
    temperature: float
    seed: int

    def __call__(self, turns: Sequence[Turn]) -> Trie:
        """The mask of the next answer."""
        problem = self.valid.problem
        state = state_after(problem, turns, self.valid.runs)
        untried = [index for index in range(len(problem.edits)) if index not in state.tried]
        if state.dirty or not untried:
            return self.valid(turns)
        law = (self.law[untried].double() / self.temperature).softmax(-1)
        uniform = random.Random(stable_seed(self.seed, "edit", len(state.tried))).random()
        place = int(draw(law, torch.tensor(uniform, dtype=torch.float64)))
        return valid(self.valid.tokenizer, [make(problem, problem.edits[untried[place]])])
