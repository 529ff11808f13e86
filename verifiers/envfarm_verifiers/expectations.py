"""What a test expects, and where its source says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import StrEnum

_EQUAL = frozenset({
    "assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual",
    "assertSequenceEqual", "assertMultiLineEqual", "assertCountEqual", "assertAlmostEqual",
})  # fmt: skip
OPPOSITE = {
    "assertTrue": "assertFalse", "assertFalse": "assertTrue", "assertIsNone": "assertIsNotNone",
    "assertIsNotNone": "assertIsNone",
}  # fmt: skip
"""Assertion methods and those that hold just when they do not."""


class Mode(StrEnum):
    """How a place is changed, best first."""

    constant = "constant"
    """An expected constant becomes another of its kind: the twin looks like the test."""
    raises = "raises"
    """Another exception type is expected."""
    unrelated = "unrelated"
    """An expected expression becomes an unrelated value."""
    negation = "negation"
    """The condition is turned round. Does not see through values whose truth is always right."""


Target = tuple[Mode, ast.expr, str]


def targets(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Target]:
    """Candidate places in source order."""
    known = _Known(function)
    for node in _statements(function.body):
        if isinstance(node, ast.Assert):
            yield from _condition(node.test, known)
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                yield from _raises(item.context_expr)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _raises(node.value)
            yield from _method(node.value, known)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, name, []))


def _condition(test: ast.expr, known: _Known) -> Iterator[Target]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for value in test.values:
            yield from _condition(value, known)
        return
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right, op = test.left, test.comparators[0], test.ops[0]
        if isinstance(op, ast.Eq):
            yield from _equal(left, right, known)
            return
        if isinstance(op, ast.In):
            constants = list(known.constants(left))
            yield from ((Mode.constant, node, ":in") for node in constants[:2])
            if not constants:
                yield Mode.unrelated, left, ""
            return
        if isinstance(op, ast.Is):
            yield Mode.unrelated, right, ":type"
            return
    if (
        isinstance(test, ast.Call)
        and isinstance(test.func, ast.Name)
        and test.func.id == "isinstance"
        and len(test.args) == 2
    ):
        yield Mode.unrelated, test.args[1], ":type"
        return
    yield Mode.negation, test, ""


def _equal(left: ast.expr, right: ast.expr, known: _Known) -> Iterator[Target]:
    """The expected side is the one that is written out; the right one when both are, or none is."""
    expected = left if _written_out(left) and not _written_out(right) else right
    constants = list(known.constants(expected))
    yield from ((Mode.constant, node, "") for node in constants[:2])
    yield Mode.unrelated, expected, ""


def _method(call: ast.Call, known: _Known) -> Iterator[Target]:
    if not (isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.args):
        return
    name = call.func.attr
    if name in _EQUAL and len(call.args) >= 2:
        yield from _equal(call.args[0], call.args[1], known)
    elif name == "assertIn":
        constants = list(known.constants(call.args[0]))
        yield from ((Mode.constant, node, ":in") for node in constants[:2])
        yield Mode.unrelated, call.args[0], ""
    elif name in ("assertIs", "assertIsInstance") and len(call.args) >= 2:
        yield Mode.unrelated, call.args[1], ":type"
    elif name in OPPOSITE:
        end = call.func
        assert end.end_lineno is not None and end.end_col_offset is not None
        attribute = ast.Name(id=name, ctx=ast.Load())
        attribute.lineno = attribute.end_lineno = end.end_lineno
        attribute.col_offset, attribute.end_col_offset = end.end_col_offset - len(name), end.end_col_offset
        yield Mode.negation, attribute, ""


def _raises(call: ast.expr) -> Iterator[Target]:
    if not isinstance(call, ast.Call) or not call.args:
        return
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("raises", "assertRaises", "assertRaisesRegex", "deprecated_call"):
        for keyword in call.keywords:
            if keyword.arg == "match" and isinstance(keyword.value, ast.Constant):
                yield Mode.constant, keyword.value, ":in"
        if isinstance(call.args[0], ast.Name | ast.Attribute):
            yield Mode.raises, call.args[0], ""


def _written_out(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.UnaryOp):
        return _written_out(node.operand)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(map(_written_out, node.elts))
    if isinstance(node, ast.Dict):
        return all(key is not None and _written_out(key) for key in node.keys) and all(map(_written_out, node.values))
    return False


class _Known:
    """Constants behind an expected expression: in it, in what its name was last set to, in the parameters."""

    def __init__(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._values: dict[str, list[ast.expr]] = {}
        for decorator in function.decorator_list:
            for name, values in _parameters(decorator):
                self._values[name] = values
        for node in _statements(function.body):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._values[node.targets[0].id] = [node.value]

    def constants(self, node: ast.expr, depth: int = 0) -> Iterator[ast.Constant]:
        """Constants in evaluation order; of a parameter's rows, three spread over all."""
        if isinstance(node, ast.Constant):
            if node.value is not Ellipsis:
                yield node
        elif isinstance(node, ast.Name) and depth < 2:
            values = self._values.get(node.id, [])
            rows = values if len(values) <= 3 else [values[0], values[len(values) // 2], values[-1]]
            for value in rows:
                yield from self.constants(value, depth + 1)
        elif isinstance(node, ast.UnaryOp):
            yield from self.constants(node.operand, depth)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            for element in node.elts:
                yield from self.constants(element, depth)
        elif isinstance(node, ast.Dict):
            for element in node.values:
                yield from self.constants(element, depth)
        elif isinstance(node, ast.Call):
            for element in (*node.args, *(keyword.value for keyword in node.keywords)):
                yield from self.constants(element, depth)


def _parameters(decorator: ast.expr) -> Iterator[tuple[str, list[ast.expr]]]:
    """``parametrize("a,b", [(1, 2), ...])`` -> a: [1, ...], b: [2, ...]."""
    if not (isinstance(decorator, ast.Call) and len(decorator.args) >= 2):
        return
    if not (isinstance(decorator.func, ast.Attribute) and decorator.func.attr == "parametrize"):
        return
    names, rows = decorator.args[0], decorator.args[1]
    if isinstance(names, ast.Constant) and isinstance(names.value, str):
        found = [name.strip() for name in names.value.split(",")]
    elif isinstance(names, ast.List | ast.Tuple):
        found = [str(getattr(name, "value", "")) for name in names.elts]
    else:
        return
    if not isinstance(rows, ast.List | ast.Tuple):
        return
    for index, name in enumerate(found):
        cells = [_cell(row, index, len(found)) for row in rows.elts]
        yield name, [cell for cell in cells if cell is not None]


def _cell(row: ast.expr, index: int, width: int) -> ast.expr | None:
    if isinstance(row, ast.Call) and getattr(row.func, "attr", getattr(row.func, "id", "")) == "param":
        elements = row.args
    elif width == 1:
        return row
    elif isinstance(row, ast.List | ast.Tuple):
        elements = row.elts
    else:
        return None
    return elements[index] if index < len(elements) else None
