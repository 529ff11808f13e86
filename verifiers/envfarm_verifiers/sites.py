"""Where a test says what it expects: the places at which a wrong value makes a twin of the test.

A twin is a copy of a test with one such place changed. An implementation that passes the test must fail the twin;
one that passes both answers to anything it is compared with.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from . import perturb

_EQUAL = frozenset({
    "assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual",
    "assertSequenceEqual", "assertMultiLineEqual", "assertCountEqual", "assertAlmostEqual",
})  # fmt: skip
_OPPOSITE = {
    "assertTrue": "assertFalse", "assertFalse": "assertTrue", "assertIsNone": "assertIsNotNone",
    "assertIsNotNone": "assertIsNone",
}  # fmt: skip
MAX_SITES = 4
"""Sites of one function that are tried."""


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


@dataclass(frozen=True)
class Site:
    """One place, as byte offsets of the file."""

    key: str
    mode: Mode
    start: int
    end: int
    text: str

    def variants(self, count: int, rng: Random) -> list[str]:
        """Up to ``count`` different wrong texts, none of them the right one."""
        found: dict[str, None] = {}
        for _ in range(count * 8):
            if len(found) == count:
                break
            text = self._variant(rng)
            if text is not None and text != self.text:
                found[text] = None
        return list(found)

    def _variant(self, rng: Random) -> str | None:
        match self.mode:
            case Mode.constant:
                return perturb.constant(self.text, rng)
            case Mode.raises:
                return rng.choice(perturb.RARE_ERRORS)
            case Mode.unrelated:
                return rng.choice(perturb.RARE_TYPES) if self.key.endswith("type") else perturb.unrelated(rng)
            case Mode.negation:
                return _OPPOSITE.get(self.text) or f"not ({self.text})"


@dataclass(frozen=True)
class Function:
    """A test function: whole lines ``[start, end)``, decorators included, and where its name stands."""

    qualname: str
    name: str
    name_at: int
    start: int
    end: int
    sites: tuple[Site, ...]


@dataclass
class Module:
    """A test file as far as twins and canaries need it."""

    source: bytes
    functions: dict[str, Function] = field(default_factory=dict)
    gaps: list[int] = field(default_factory=list)
    """Offsets between top-level definitions."""
    names: set[str] = field(default_factory=set)


def read_module(source: bytes) -> Module | None:
    """None for a file that is no plain UTF-8 Python."""
    try:
        text = source.decode("utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # a file of another Python version, say: it gets no twins
        return None
    if "\r" in text.replace("\r\n", "") or "\f" in text or text.startswith("\ufeff"):
        return None
    module = Module(source)
    lines = _Lines(source)
    module.names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.gaps.append(lines.after(node))
    for prefix, node in _functions(tree.body, "", bases):
        module.names.add(node.name)
        function = _function(prefix, node, lines)
        if function is not None:
            module.functions[function.qualname] = function
    return module


class _Lines:
    """Byte offsets of AST positions."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._starts = [0]
        for line in source.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: ast.expr) -> tuple[int, int]:
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno or 0, node.end_col_offset or 0)

    def text(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode("utf-8")

    def after(self, node: ast.stmt) -> int:
        return min(self._starts[node.end_lineno or 0], len(self.source))


def _functions(
    body: list[ast.stmt], prefix: str, bases: set[str]
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix, node
        # The tests of a class that others inherit run under several ids: left alone.
        elif isinstance(node, ast.ClassDef) and node.name not in bases:
            yield from _functions(node.body, f"{prefix}{node.name}::", bases)


def _function(prefix: str, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: _Lines) -> Function | None:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(name.split("(")[0].split(".")[-1] in ("given", "overload", "staticmethod") for name in decorators):
        return None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    name_at = lines.source.find(node.name.encode(), lines.at(node.lineno, node.col_offset) + 3)
    found: dict[tuple[int, int], Site] = {}
    for number, (mode, target, note) in enumerate(_targets(node)):
        span = lines.span(target) if isinstance(target, ast.expr) else target
        text = lines.source[span[0] : span[1]].decode("utf-8")
        found.setdefault(span, Site(f"{number}:{mode}{note}", mode, *span, text))
    sites = sorted(found.values(), key=lambda site: list(Mode).index(site.mode))
    if any(site.mode is not Mode.negation for site in sites):
        sites = [site for site in sites if site.mode is not Mode.negation]
    return Function(
        prefix + node.name, node.name, name_at, lines.at(first, 0), lines.after(node), tuple(sites[:MAX_SITES])
    )


_Target = tuple[Mode, ast.expr, str]


def _targets(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Target]:
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


def _condition(test: ast.expr, known: _Known) -> Iterator[_Target]:
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
            yield from ((Mode.constant, node, "") for node in constants[:2])
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


def _equal(left: ast.expr, right: ast.expr, known: _Known) -> Iterator[_Target]:
    """The expected side is the one that is written out; the right one when both are, or none is."""
    expected = left if _written_out(left) and not _written_out(right) else right
    constants = list(known.constants(expected))
    yield from ((Mode.constant, node, "") for node in constants[:2])
    yield Mode.unrelated, expected, ""


def _method(call: ast.Call, known: _Known) -> Iterator[_Target]:
    if not (isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.args):
        return
    name = call.func.attr
    if name in _EQUAL and len(call.args) >= 2:
        yield from _equal(call.args[0], call.args[1], known)
    elif name == "assertIn":
        constants = list(known.constants(call.args[0]))
        yield from ((Mode.constant, node, "") for node in constants[:2])
        yield Mode.unrelated, call.args[0], ""
    elif name in ("assertIs", "assertIsInstance") and len(call.args) >= 2:
        yield Mode.unrelated, call.args[1], ":type"
    elif name in _OPPOSITE:
        end = call.func
        assert end.end_lineno is not None and end.end_col_offset is not None
        attribute = ast.Name(id=name, ctx=ast.Load())
        attribute.lineno = attribute.end_lineno = end.end_lineno
        attribute.col_offset, attribute.end_col_offset = end.end_col_offset - len(name), end.end_col_offset
        yield Mode.negation, attribute, ""


def _raises(call: ast.expr) -> Iterator[_Target]:
    if not isinstance(call, ast.Call) or not call.args:
        return
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("raises", "assertRaises", "assertRaisesRegex", "deprecated_call"):
        for keyword in call.keywords:
            if keyword.arg == "match" and isinstance(keyword.value, ast.Constant):
                yield Mode.constant, keyword.value, ""
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
