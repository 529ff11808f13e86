"""MiMo's chat format: turns as text, in pieces that say which of it is control tokens.

ChatML without a newline after ``<|im_end|>``; the layout follows the public V2.5 template (that of V2-Flash could not
be read), the instructions to call tools are in our own words. A piece that is not special must be encoded without
looking for control tokens in it: so nothing that a tool or a user says can forge one, and nothing is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from envfarm.core.rollout import Role, ToolCall, Turn

from .toolcalls import CLOSE, OPEN
from .toolcalls import render as render_call


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; ``special`` where it is one control token."""

    text: str
    special: bool = False


START, END = Piece("<|im_start|>", True), Piece("<|im_end|>", True)
THINK, THOUGHT = Piece("<think>", True), Piece("</think>", True)
CALL, CALLED = Piece(OPEN, True), Piece(CLOSE, True)
RESPONSE, RESPONDED = Piece("<tool_response>", True), Piece("</tool_response>", True)
SPECIALS = (START, END, THINK, THOUGHT, CALL, CALLED, RESPONSE, RESPONDED)
"""Every control token of the format."""

DEFAULT_SYSTEM = "You are MiMo, a helpful AI assistant engineered by Xiaomi."

_ASSISTANT = (START, Piece("assistant\n"))
_EXAMPLE = ToolCall(name="name_of_function", arguments={"name_of_parameter": "value\nof as many lines as it needs"})


def render(
    turns: Sequence[Turn],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    thinking: bool = False,
    keep_all_reasoning: bool = False,
    generate: bool = True,
) -> list[Piece]:
    """A whole conversation, and with ``generate`` the head of the assistant's next turn.

    ``tools`` are functions (``name``, ``description``, ``parameters`` as JSON schema), declared in the first system
    turn. An assistant's reasoning is the ``<think>...</think>`` that its text begins with; before the last user turn
    it is left out unless ``keep_all_reasoning``. Results of tools are matched to calls by their order.
    """
    system = turns[0].text if turns and turns[0].role is Role.system else None
    rest = turns if system is None else turns[1:]
    last_user = max((place for place, turn in enumerate(rest) if turn.role is Role.user), default=-1)
    pieces = [START, Piece("system\n" + (DEFAULT_SYSTEM if system is None else system)), *_declared(tools), END]
    place = 0
    for block in _blocks(rest):
        if block[0].role is Role.assistant:
            kept = keep_all_reasoning or place > last_user
            pieces += [*_ASSISTANT, *_assistant(block[0], tools, keep_reasoning=kept), END]
        else:
            pieces += _heard(block)
        place += len(block)
    return joined([*pieces, *(_head(thinking) if generate else ())])


def suffix(turns: Sequence[Turn], *, thinking: bool = False) -> list[Piece]:
    """What must follow an emission that ended with ``<|im_end|>``: ``turns``, and the head of the next answer.

    ``render(before) + emitted + suffix(new)`` is ``render(before + [emitted turn] + new)`` if reasoning is kept or
    none of ``new`` is a user's; emitted tokens stay as they are. Raises ``ValueError`` for an assistant's turn.
    """
    if any(turn.role is Role.assistant for turn in turns):
        raise ValueError("an assistant's turn is emitted, never rendered into a suffix")
    heard = [piece for block in _blocks(turns) for piece in _heard(block)]
    return joined([*heard, *_head(thinking)])


def reply(turn: Turn, tools: Sequence[Mapping[str, Any]] = (), *, thinking: bool = False) -> list[Piece]:
    """What an engine emits, in canonical form, to say ``turn``: after ``render(...)``'s head, up to ``<|im_end|>``.

    Without ``thinking`` the head holds the empty ``<think></think>`` already, and the turn's reasoning is not said.
    """
    said = _assistant(turn, tools, keep_reasoning=thinking)
    return joined([*(said if thinking else said[2:]), END])


def text(pieces: Iterable[Piece]) -> str:
    """The pieces as one string."""
    return "".join(piece.text for piece in pieces)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same text with neighbouring plain pieces made one: a tokenizer may merge across where they met."""
    found: list[Piece] = []
    for special, group in groupby((piece for piece in pieces if piece.text), key=lambda piece: piece.special):
        same = list(group)
        found += same if special else [Piece(text(same))]
    return found


def split_reasoning(said: str) -> tuple[str, str]:
    """The reasoning that an assistant's text begins with, and the rest; unclosed, all of it is reasoning."""
    if not said.startswith(THINK.text):
        return "", said
    reasoning, _, rest = said.removeprefix(THINK.text).partition(THOUGHT.text)
    return reasoning, rest


def _blocks(turns: Sequence[Turn]) -> list[list[Turn]]:
    """Turns as they share a block: results of tools that follow each other do, all others stand alone."""
    groups = groupby(enumerate(turns), key=lambda item: -1 if item[1].role is Role.tool else item[0])
    return [[turn for _, turn in group] for _, group in groups]


def _head(thinking: bool) -> list[Piece]:
    return [*_ASSISTANT, *(() if thinking else (THINK, THOUGHT))]


def _heard(block: Sequence[Turn]) -> list[Piece]:
    """A block that no assistant said."""
    pieces = [START, Piece(f"{block[0].role}\n")]
    for turn in block:
        if turn.role is Role.tool:
            pieces += [RESPONSE, Piece(f"\n{turn.text}\n"), RESPONDED, Piece("\n")]
        else:
            pieces.append(Piece(turn.text))
    return [*pieces, END]


def _assistant(turn: Turn, tools: Sequence[Mapping[str, Any]], *, keep_reasoning: bool) -> list[Piece]:
    reasoning, rest = split_reasoning(turn.text)
    pieces = [THINK, *([Piece(reasoning)] if keep_reasoning and reasoning else ()), THOUGHT, Piece(rest)]
    for call in turn.tool_calls:
        pieces += _call(call, tools)
    return pieces


def _call(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
    return [CALL, Piece(render_call(call, tools).removeprefix(OPEN).removesuffix(CLOSE)), CALLED]


def _declared(tools: Sequence[Mapping[str, Any]]) -> list[Piece]:
    if not tools:
        return []
    functions = "".join(f"\n<function>{_function(tool)}\n</function>" for tool in tools)
    return [
        Piece(
            f"\n\n# Tools\n\nThese functions may be called:\n\n<tools>{functions}\n</tools>\n\nCall one like this:\n"
        ),
        *_call(_EXAMPLE, ()),
        Piece(
            "\n\nSeveral calls may follow each other. Calls in reasoning are not seen. A value is read as it stands, "
            "blanks and newlines too, but that &lt; is read as < and &amp; as &."
        ),
    ]


def _function(tool: Mapping[str, Any]) -> str:
    schema = tool.get("parameters", {})
    parameters = "".join(
        f"\n<parameter>{_fields({'name': name, **fields})}\n</parameter>"
        for name, fields in schema.get("properties", {}).items()
    )
    others = {key: value for key, value in schema.items() if key not in ("type", "properties")}
    named = {key: tool[key] for key in ("name", "description") if key in tool}
    return f"{_fields(named)}\n<parameters>{parameters}{_fields(others)}\n</parameters>"


def _fields(fields: Mapping[str, Any]) -> str:
    return "".join(
        f"\n<{key}>{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}</{key}>"
        for key, value in fields.items()
    )
