"""The random baseline of repair: a valid edit, drawn uniformly; what it makes once it never makes again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from envfarm.core.rollout import Role, Turn

from .problem import Problem
from .protocol import FINISH, REVERT, calls, run_test
from .world import state_after


@dataclass
class RandomValid:
    """Satisfies ``Policy``. With runs left it runs the shown test after each edit, and stops where it passes."""

    problem: Problem
    runs: int = 0
    seed: int = 0
    name: str = "random-valid"
    _rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    async def act(self, turns: Sequence[Turn]) -> Turn:
        """The next call."""
        state = state_after(self.problem, turns, self.runs)
        valid = calls(self.problem, state)
        if not state.dirty:
            call = self._rng.choice(valid)
        elif state.tested:
            call = REVERT if REVERT in valid and " failed" in turns[-1].text else FINISH
        else:
            call = run_test(self.problem) if len(valid) > 1 else FINISH
        return Turn(role=Role.assistant, tool_calls=(call,))
