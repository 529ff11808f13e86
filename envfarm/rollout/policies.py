"""Scripted policies: the upper and lower bounds that every learned policy is measured between."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envfarm.core.rollout import Role, ToolCall, Turn

FINISH = ToolCall(name="finish", id="finish")


def _turn(*calls: ToolCall) -> Turn:
    return Turn(role=Role.assistant, tool_calls=calls)


def _turns_taken(turns: Sequence[Turn]) -> int:
    return sum(turn.role is Role.assistant for turn in turns)


@dataclass(frozen=True)
class Noop:
    """Hands in the untouched tree. Must solve nothing."""

    name: str = "noop"

    async def act(self, turns: Sequence[Turn]) -> Turn:
        """Finish at once."""
        return _turn(FINISH)


@dataclass(frozen=True)
class Oracle:
    """Applies the gold patch through the tools. Must solve everything."""

    gold_patch: str
    name: str = "oracle"

    async def act(self, turns: Sequence[Turn]) -> Turn:
        """Apply, then finish."""
        if _turns_taken(turns):
            return _turn(FINISH)
        # base64, because a patch may hold anything a here-document would trip over
        encoded = base64.b64encode(self.gold_patch.encode()).decode()
        command = f"base64 -d <<'EOF' | git apply --whitespace=nowarn -\n{encoded}\nEOF"
        return _turn(ToolCall(name="bash", arguments={"command": command}, id="apply"))


@dataclass(frozen=True)
class Edit:
    """One single edit of a file, as a policy sees it."""

    path: str
    before: str
    after: str


@dataclass(frozen=True)
class RandomEdit:
    """Makes one uniformly random valid edit in the known function: the baseline a learned policy must beat.

    ``draw`` gives the edit for a random generator (the enumeration of valid edits belongs to the builders and is
    wired in by a root), or None when the function has none.
    """

    draw: Callable[[random.Random], Edit | None]
    seed: int = 0
    name: str = "random-edit"

    async def act(self, turns: Sequence[Turn]) -> Turn:
        """Edit, then finish."""
        edit = None if _turns_taken(turns) else self.draw(random.Random(self.seed))
        if edit is None:
            return _turn(FINISH)
        old, new = unique_replacement(edit.before, edit.after)
        arguments = {"path": edit.path, "old": old, "new": new}
        return _turn(ToolCall(name="str_replace", arguments=arguments, id="edit"))


def unique_replacement(before: str, after: str) -> tuple[str, str]:
    """The shortest whole-line ``(old, new)`` around one change such that ``old`` occurs once in ``before``."""
    old_lines, new_lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    head = 0
    while head < min(len(old_lines), len(new_lines)) and old_lines[head] == new_lines[head]:
        head += 1
    tail = 0
    shortest = min(len(old_lines), len(new_lines)) - head
    while tail < shortest and old_lines[-1 - tail] == new_lines[-1 - tail]:
        tail += 1
    while True:
        old = "".join(old_lines[head : len(old_lines) - tail])
        if (old and before.count(old) == 1) or (head == 0 and tail == 0):
            return old, "".join(new_lines[head : len(new_lines) - tail])
        head, tail = max(0, head - 1), max(0, tail - 1)
