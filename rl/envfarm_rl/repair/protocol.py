"""What may be done when, in an episode of repair: edit, run the shown test, revert, edit anew, finish.

One validity rule for every policy and for the random baseline: an edit applies and parses, and none is made twice.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from envfarm.core.rollout import ToolCall

from .problem import Edit, Problem

FINISH = ToolCall(name="finish")
REVERT = ToolCall(name="bash", arguments={"command": "git checkout -q ."})


def run_test(problem: Problem) -> ToolCall:
    """The call that runs the shown test and leaves one line of its report."""
    # -B: two edits of one length within a second would have the bytecode of the first run for the second
    command = f"python -B -m pytest -q {shlex.quote(problem.shown_test)} 2>&1 | tail -n 1"
    return ToolCall(name="bash", arguments={"command": command})


def make(problem: Problem, edit: Edit) -> ToolCall:
    """The call that makes an edit."""
    return ToolCall(name="bash", arguments={"command": problem.command(edit)})


@dataclass(frozen=True, slots=True)
class State:
    """How far an episode is. ``after`` of a call that :func:`calls` offers gives the next."""

    runs: int
    """Test runs that are left."""
    tried: tuple[int, ...] = ()
    """Edits made so far, as indices into the problem's."""
    dirty: bool = False
    """Whether an edit is in place."""
    tested: bool = False
    """Whether the edit in place has been run."""

    def after(self, call: ToolCall, problem: Problem) -> State:
        """The state once ``call`` is done."""
        call = call.model_copy(update={"id": ""})
        if call == REVERT:
            return replace(self, dirty=False, tested=False)
        if problem.shown_test and call == run_test(problem):
            return replace(self, runs=self.runs - 1, tested=True)
        for index, edit in enumerate(problem.edits):
            if call == make(problem, edit):
                return replace(self, tried=(*self.tried, index), dirty=True, tested=False)
        return self


def calls(problem: Problem, state: State) -> list[ToolCall]:
    """The calls that are valid now, never none. An edit in place can be run while runs are left; one that was run can
    be reverted while another could still be run."""
    if not state.dirty:
        untried = [make(problem, edit) for index, edit in enumerate(problem.edits) if index not in state.tried]
        return untried or [FINISH]
    if state.tested:
        more = state.runs > 0 and len(state.tried) < len(problem.edits)
        return [FINISH, REVERT] if more else [FINISH]
    return [FINISH, run_test(problem)] if state.runs > 0 and problem.shown_test else [FINISH]
