"""Tool calls come back from text as they were, and what a policy garbles is said in a sentence."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest
from envfarm_rl.text.toolcalls import ToolCallError, parse, render
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.rollout import ToolCall
from envfarm.rollout.tools import SCHEMAS

UNIONS: dict[str, Any] = {
    "text": {"type": "string"},
    "untyped": {},
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "flag": {"type": "boolean"},
    "items": {"type": "array"},
    "record": {"type": "object"},
    "maybe": {"type": ["string", "null"]},
    "either": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": ["boolean", "array"]}]},
    "any": {"oneOf": [{"type": t} for t in ("string", "number", "object", "array", "boolean", "null")]},
}
TOOLS = (*SCHEMAS, {"name": "all", "parameters": {"type": "object", "properties": UNIONS}})

PARTS = ["</parameter>", "<parameter=x>", "&lt;", "&amp;lt;", "&", "lt;", "&#60;", "<", "</tool_call>", "<think>", "\n"]
PARTS += [
    "null",
    "True",
    "5",
    "-1e3",
    '"x"',
    "[1]",
    '{"a": 1}',
    "&param",
    "é",
    "漢",
    "\u2028",
    "\r\n",
    "</",
    " ",
    "\x85",
]
TEXT = st.one_of(st.text(max_size=8), st.lists(st.sampled_from(PARTS), max_size=6).map("".join))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT, lambda x: st.lists(x) | st.dictionaries(TEXT, x), max_leaves=3
)
LISTS, RECORDS = st.lists(JSON, max_size=2), st.dictionaries(TEXT, JSON, max_size=2)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXT,
    "untyped": TEXT,
    "unknown": TEXT,
    "count": st.integers(),
    "share": NUMBERS,
    "flag": st.booleans(),
    "items": LISTS,
    "record": RECORDS,
    "maybe": st.none() | TEXT,
    "either": st.integers() | TEXT | st.booleans() | LISTS,
    "any": st.none() | st.booleans() | NUMBERS | TEXT | LISTS | RECORDS,
}
CALLS = st.fixed_dictionaries({}, optional=VALUES).map(lambda arguments: ToolCall(name="all", arguments=arguments))


def exact(calls: list[ToolCall]) -> list[str]:
    """To compare with: ``1 == True == 1.0`` in Python, not here."""
    return [repr((call.name, call.arguments)) for call in calls]


@given(st.lists(CALLS, max_size=2))
def test_calls_come_back_as_they_were(calls: list[ToolCall]) -> None:
    found = parse("Some words. " + "".join(render(call, TOOLS) for call in calls), TOOLS)
    assert exact(found) == exact(calls)
    assert [call.id for call in found] == [f"call-{n}" for n in range(len(calls))]


@given(st.text() | st.lists(st.sampled_from([*PARTS, "<tool_call>", "<function=bash>", "</function>"])).map("".join))
def test_anything_a_policy_writes_is_read_or_refused(text: str) -> None:
    try:
        assert all(call.name for call in parse(text, TOOLS))
    except ToolCallError as error:
        assert str(error).endswith(".") and "\n" not in str(error)


def body(name: str, **values: str) -> str:
    parameters = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def value(name: str, raw: str) -> Any:
    return parse(body("all", **{name: raw}), TOOLS)[0].arguments[name]


def test_the_form_is_the_released_models() -> None:
    call = ToolCall(name="bash", arguments={"command": "cd x && cat <<EOF > y\n&param\nEOF\n"}, id="call-0")
    text = (
        "<tool_call>\n<function=bash>\n<parameter=command>cd x && cat <<EOF > y\n&param\nEOF\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert render(call, TOOLS) == text, "what can be read as it stands is written as it stands"
    assert parse(text, TOOLS) == [call]
    assert html.unescape("&param") != "&param", "why references without a semicolon are left alone"
    assert parse(body("finish"), TOOLS) == [ToolCall(name="finish", id="call-0")]


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("text", "a &lt; b &amp;&#38; c", "a < b && c"),
        ("text", "null", "null"),
        ("maybe", "null", None),
        ("maybe", "5", "5"),
        ("count", "null", None),
        ("count", "\n 5\n", 5),
        ("share", "5e-1", 0.5),
        ("flag", "True", True),
        ("items", "[1, &quot;a&lt;&quot;]", [1, "a<"]),
        ("record", '{"a": [null]}', {"a": [None]}),
        ("either", "5", 5),
        ("either", "&#53;", "5"),
        ("either", "5.5", "5.5"),
        ("either", "\x855", "\x855"),
        ("either", '"5"', '"5"'),
        ("undeclared", "5", "5"),
    ],
)
def test_values_are_typed_by_their_schema(name: str, raw: str, expected: Any) -> None:
    found = value(name, raw)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("raw", ["five", "5.0", "true", '"5"', "", "9" * 5000, "[" * 100_000])
def test_what_is_not_of_its_type_is_refused(raw: str) -> None:
    with pytest.raises(ToolCallError, match="The call of all needs count as integer, not "):
        value("count", raw)


@pytest.mark.parametrize("raw", ["NaN", "1e999", "-Infinity"])
def test_what_json_cannot_hold_is_refused(raw: str) -> None:
    with pytest.raises(ToolCallError, match="number"):
        value("share", raw)


def test_half_a_surrogate_pair_is_refused() -> None:
    assert json.loads(r'["\ud800"]') == ["\ud800"], "which could not be written to a file"
    with pytest.raises(ToolCallError, match="array"):
        value("items", r'["\ud800"]')


def test_reasoning_holds_no_calls_and_values_may_hold_anything() -> None:
    inner = ToolCall(name="bash", arguments={"command": "grep '<think>' </tool_call> " + body("finish")}, id="call-0")
    assert parse(f"<think>{body('finish')}</think>{render(inner, TOOLS)}", TOOLS) == [inner]
    assert parse(f"Now.<think>{body('finish')}", TOOLS) == []
    assert parse("no call at all", TOOLS) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<tool_call>", "must begin with <function=NAME>, not the end of the text"),
        ('<tool_call>{"name": "bash"}</tool_call>', "must begin with <function=NAME>, not '{"),
        ("<tool_call><function=bash><parameter=command>ls", "The call of bash must go on with"),
        ("<tool_call><function=bash><parameter=command>ls</parameter></tool_call>", "end with </function>"),
        ("<tool_call><function=bash>ls</function></tool_call>", "not 'ls</function></tool_call>'"),
        ("<tool_call><function=finish></function>", "</tool_call>, not '</function>'"),
        (body("finish") + "<tool_call>", "must begin"),
        (
            "<tool_call><function=bash><parameter=command>a</parameter><parameter=command>b</parameter></function>",
            "gives command twice",
        ),
    ],
)
def test_a_malformed_call_is_said_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ToolCallError) as error:
        parse(text, TOOLS)
    assert said in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("name", ["", "a b", "a>", "<a"])
def test_names_that_the_format_cannot_hold_are_not_written(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        render(ToolCall(name=name), TOOLS)
    with pytest.raises(ValueError, match="cannot name"):
        render(ToolCall(name="all", arguments={name: "x"}), TOOLS)
