"""Episodes of repair against what real boxes have said of each edit.

An edit of a task's tree determines what the shown test prints and what the verdict is. So each distinct edit is put to
a real box and to the grader once, and an episode made of edits that are known needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from envfarm.core.ports import Policy
from envfarm.core.rollout import Role, ToolCall, Turn

from ..samples import Outcome
from ..text.tokenizer import TinyTokenizer
from ..text.trie import Trie
from .problem import Problem
from .prompt import page, valid
from .protocol import FINISH, State, calls

TOOLS: tuple[dict[str, Any], ...] = (
    {"name": "bash", "parameters": {"type": "object", "properties": {"command": {"type": "string"}}}},
    {"name": "finish", "parameters": {"type": "object", "properties": {}}},
)
"""The tools of the minimal harness that an episode of repair uses, as a parser of calls reads them."""
SILENT = "\n[exit code 0]"
"""What the harness says of a command that printed nothing."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a real box and the grader said of one edit."""

    line: str
    """Last line of the shown test's report, as the harness gave it to the policy; empty where none can be run."""
    passed: bool
    """The verdict of the tree with the edit."""


class World(Protocol):
    """Knows, or finds out in real boxes, what an edit does."""

    async def tried(self, task: str, edit: int) -> Tried:
        """Of the edit with that index among the problem's."""
        ...


@dataclass(frozen=True, slots=True)
class Played:
    """One episode."""

    turns: tuple[Turn, ...]
    outcome: Outcome
    edits: tuple[int, ...]
    """In the order made."""
    runs: int
    """Runs of the shown test."""


def state_after(problem: Problem, turns: Sequence[Turn], runs: int) -> State:
    """How far an episode is, from its turns."""
    state = State(runs=runs)
    for turn in turns:
        for call in turn.tool_calls:
            state = state.after(call, problem)
    return state


@dataclass(frozen=True)
class ValidCalls:
    """The validity mask of a task's episodes, as an ``EnginePolicy`` takes it."""

    tokenizer: TinyTokenizer
    problem: Problem
    runs: int

    def __call__(self, turns: Sequence[Turn]) -> Trie:
        return valid(self.tokenizer, calls(self.problem, state_after(self.problem, turns, self.runs)))


@dataclass(frozen=True)
class RecordedPlayer:
    """Plays episodes of valid calls without a box of their own. Satisfies ``EpisodePlayer``; ``runs`` is an episode's
    budget of test runs. What is said to the policy is what the minimal harness says."""

    problems: Mapping[str, Problem]
    world: World
    runs: int = 0

    async def play(self, task: str, policy: Policy, *, seed: int) -> tuple[Outcome, str]:
        """See the port."""
        return (await self.played(task, policy)).outcome, ""

    async def close(self) -> None:
        """Nothing: the world is its owner's."""

    async def played(self, task: str, policy: Policy) -> Played:
        """One episode. Raises ``ValueError`` for a call that is not valid: a record cannot answer it."""
        problem = self.problems[task]
        turns = [Turn(role=Role.user, text=page(problem))]
        state = State(runs=self.runs)
        while True:
            turn = await policy.act(turns)
            turns.append(turn)
            call = _valid_call(turn, problem, state)
            before, state = state, state.after(call, problem)
            if call == FINISH:
                passed = state.dirty and (await self.world.tried(task, state.tried[-1])).passed
                ended = Outcome.passed if passed else Outcome.failed
                return Played(tuple(turns), ended, state.tried, self.runs - state.runs)
            ran = state.runs < before.runs
            said = (await self.world.tried(task, state.tried[-1])).line if ran else SILENT
            turns.append(Turn(role=Role.tool, text=said, tool_call_id=turn.tool_calls[0].id))


def _valid_call(turn: Turn, problem: Problem, state: State) -> ToolCall:
    valid_now = calls(problem, state)
    if len(turn.tool_calls) == 1:
        call = turn.tool_calls[0].model_copy(update={"id": ""})
        if call in valid_now:
            return call
    raise ValueError(f"not one of the {len(valid_now)} calls that are valid now: {turn.tool_calls or turn.text!r}")
