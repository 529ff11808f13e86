"""A repair episode in MiMo's chat format, as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from envfarm.core.rollout import Role, ToolCall, Turn

from ..text.chat import END, Piece, render, reply, suffix
from ..text.tokenizer import TinyTokenizer
from ..text.trie import Trie
from .problem import Problem

# A tiny policy is told of no tools and given no role: it has seen nothing but this form.
_SYSTEM = Turn(role=Role.system)


def page(problem: Problem) -> str:
    """What the user says: what failed, where the function lies, and its numbered lines."""
    failure = f"{problem.failure}\n" if problem.failure else ""
    return f"{failure}{problem.path} +{problem.base} {problem.name}\n{problem.listing}"


def opening(problem: Problem) -> list[Piece]:
    """The prompt of the first turn."""
    return render([_SYSTEM, Turn(role=Role.user, text=page(problem))])


def answer(call: ToolCall) -> list[Piece]:
    """What a policy emits to make a call, up to the end of its turn."""
    return reply(Turn(role=Role.assistant, tool_calls=(call,)))


def heard(text: str) -> list[Piece]:
    """What follows a call: the tool's answer, and the head of the next turn."""
    return suffix([Turn(role=Role.tool, text=text)])


def valid(tokenizer: TinyTokenizer, calls: Sequence[ToolCall]) -> Trie:
    """The validity mask: one of these calls, as it is written canonically."""
    return Trie(tokenizer.encode(answer(call)) for call in calls)


def stop(tokenizer: TinyTokenizer) -> frozenset[int]:
    """Ids that end a turn."""
    return frozenset({tokenizer.control(END.text)})
