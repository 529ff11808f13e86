"""MiMo's tool calls as text: ``<tool_call>\\n<function=NAME>\\n<parameter=KEY>VALUE</parameter>\\n...``.

A value stands as it is, blanks and newlines included, but that character references (``&lt;``) are read as what they
stand for. :func:`render` writes a reference only where the plain text would be read as something else, because that
is how the released model writes. Only references with a semicolon are read: HTML's others would turn ``f(&params)``
into ``f(¶ms)``.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from envfarm.core.rollout import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_NAME = r"[^<>\s]+"
_NEXT = re.compile(r"<think>.*?(?:</think>|\Z)|<tool_call>", re.DOTALL)
_FUNCTION = re.compile(rf"\s*<function=({_NAME})>")
_PARAMETER = re.compile(rf"\s*<parameter=({_NAME})>(.*?)</parameter>", re.DOTALL)
_END = re.compile(r"\s*</function>\s*</tool_call>")

_REFERENCE = re.compile(r"&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});")
_TAG = re.compile(r"<(?=/?(?:tool_call|function|parameter|think)\b)")

_LITERALS = {"null": None, "true": True, "false": False}
_TYPES: dict[type, frozenset[str]] = {
    type(None): frozenset({"null"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    list: frozenset({"array"}),
    dict: frozenset({"object"}),
    str: frozenset(),  # text needs no quotes, so a quoted string is text with quotes
}
_BLANKS = " \t\r\n"


class ToolCallError(ValueError):
    """The policy wrote a call that cannot be read: its own failure, said in one sentence that it may be told."""


def parse(text: str, tools: Sequence[Mapping[str, Any]]) -> list[ToolCall]:
    """Calls in what a policy wrote, outside ``<think>``, with ids ``call-0``, ``call-1``...

    ``tools`` are functions (``name``, ``parameters`` as JSON schema); a value has the type that its schema names, text
    where it names none. ``null`` is None, unless the schema takes text and not null. Whether a tool and its parameters
    exist is for who runs it to say. Raises :class:`ToolCallError`.
    """
    calls: list[ToolCall] = []
    place = 0
    while found := _NEXT.search(text, place):
        place = found.end()
        if found[0] == OPEN:
            call, place = _call(text, place, tools, f"call-{len(calls)}")
            calls.append(call)
    return calls


def render(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> str:
    """The text of a call: :func:`parse` gives it back (but for its id) if its arguments fit their schemas.

    Raises ``ValueError`` for names that the format cannot hold (empty, with blanks, ``<`` or ``>``).
    """
    if wrong := [name for name in (call.name, *call.arguments) if not re.fullmatch(_NAME, name)]:
        raise ValueError(f"{wrong[0]!r} cannot name a tool or a parameter")
    properties = _properties(tools, call.name)
    values = "".join(
        f"<parameter={key}>{_written(value, _types(properties.get(key)))}</parameter>\n"
        for key, value in call.arguments.items()
    )
    return f"{OPEN}\n<function={call.name}>\n{values}</function>\n{CLOSE}"


def _call(text: str, place: int, tools: Sequence[Mapping[str, Any]], id_: str) -> tuple[ToolCall, int]:
    """The call whose ``<tool_call>`` ends at ``place``, and where it ends."""
    if not (head := _FUNCTION.match(text, place)):
        raise ToolCallError(f"A tool call must begin with <function=NAME>, not {_excerpt(text[place:])}.")
    name, place = head[1], head.end()
    properties = _properties(tools, name)
    arguments: dict[str, Any] = {}
    while found := _PARAMETER.match(text, place):
        key, raw, place = found[1], found[2], found.end()
        if key in arguments:
            raise ToolCallError(f"The call of {name} gives {key} twice.")
        types = _types(properties.get(key))
        try:
            arguments[key] = _value(raw, types)
        except (ValueError, RecursionError) as error:  # the boundary to what the policy wrote, however deeply nested
            wanted = " or ".join(sorted(types))
            raise ToolCallError(f"The call of {name} needs {key} as {wanted}, not {_excerpt(raw)}.") from error
    if not (end := _END.match(text, place)):
        raise ToolCallError(
            f"The call of {name} must go on with <parameter=KEY>VALUE</parameter> or end with </function> and "
            f"</tool_call>, not {_excerpt(text[place:])}."
        )
    return ToolCall(name=name, arguments=arguments, id=id_), end.end()


def _properties(tools: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next((tool.get("parameters", {}).get("properties", {}) for tool in tools if tool["name"] == name), {})


def _types(schema: Mapping[str, Any] | None) -> frozenset[str]:
    """Types that a JSON schema takes, of a union all; text where it names none."""
    schema = schema or {}
    named = schema.get("type", ())
    types = {named} if isinstance(named, str) else set(named)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        types |= _types(choice)
    return frozenset(types or {"string"})


def _value(raw: str, types: frozenset[str]) -> Any:
    """What ``raw`` stands for. ``ValueError`` where it is none of ``types``."""
    text = _REFERENCE.sub(lambda found: html.unescape(found[0]), raw)
    if "string" not in types:
        return _json(text, types | {"null"})
    try:
        # As written: a reference in it says that it is text, though it read like a number.
        _json(raw, types)
    except (ValueError, RecursionError):  # none of the other types of the union, and all else is text
        return text
    return _json(text, types)


def _json(text: str, types: frozenset[str]) -> Any:
    text = text.strip(_BLANKS)
    value = _LITERALS[text.lower()] if text.lower() in _LITERALS else json.loads(text)
    if not _TYPES[type(value)] & types:
        raise ValueError(f"not {types}")
    # Raises for what json.loads takes and JSON has not: NaN, 1e999, half of a surrogate pair.
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _written(value: Any, types: frozenset[str]) -> str:
    if not isinstance(value, str):
        return _escaped(json.dumps(value, ensure_ascii=False))
    raw = _escaped(value)
    if "string" in types and _value(raw, types) != value:
        return f"&#{ord(value[0])};{_escaped(value[1:])}"
    return raw


def _escaped(text: str) -> str:
    return _TAG.sub("&lt;", _REFERENCE.sub(lambda found: f"&amp;{found[0][1:]}", text))


def _excerpt(text: str) -> str:
    return repr(text[:40] + "..." if len(text) > 40 else text) if text else "the end of the text"
