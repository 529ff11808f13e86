"""Operators on control flow and signatures: negation, branch, return, default."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from .expressions import off_by_one
from .replacement import Replacement
from .scope import terminal_name
from .unit import Unit

_NEGATABLE = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.BinOp, ast.Await)
_PREDICATE = re.compile(
    r"_*(is|has|can|should|must|was|are|any|all|exists|contains|startswith|endswith|matches|issubset|issuperset"
    r"|isdisjoint|callable|bool)(_|[a-z]*\Z)"
)
_COUNT = frozenset({"len", "max", "min", "sum", "int", "round", "abs", "index", "find", "rfind", "count", "ord"})
_DEFAULTS: dict[object, tuple[str, ...]] = {None: ("True", '""'), "": ('" "', "None"), " ": ('""',)}
"""Symmetric: each alternative names the key among its own alternatives."""


def negation(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """``not`` added to, or dropped from, a part of a condition. Comparisons have their own operator."""
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            conditions = [node.test]
        case ast.comprehension():
            conditions = node.ifs
        case _:
            return
    for condition in conditions:
        for atom in _atoms(condition):
            if unit.editable(atom):
                yield from _negated(unit, atom)


def branch(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """The arms of a conditional expression swapped, ``break``/``continue``, ``elif``/``if``."""
    match node:
        case ast.IfExp(body=body, orelse=orelse):
            loose = (ast.IfExp, ast.Lambda)  # would swallow what follows once moved
            if not isinstance(body, loose) and not isinstance(orelse, loose):
                yield from _swapped(unit, body, orelse)
        case ast.Break():
            yield Replacement(*unit.span(node), "continue")
        case ast.Continue():
            yield Replacement(*unit.span(node), "break")
        case ast.If():
            yield from _detached(unit, node)


def returned(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """A returned constant changed, a predicate negated, a tuple's neighbours swapped, a count off by one."""
    if not isinstance(node, ast.Return) or node.value is None:
        return
    value = node.value
    yield from off_by_one(unit, value)
    match value:
        case ast.Constant(value=bool()):
            yield Replacement(*unit.span(value), str(not value.value))
        case ast.Tuple(elts=elements) if not any(isinstance(element, ast.Starred) for element in elements):
            for left, right in pairwise(elements):
                yield from _swapped(unit, left, right)
        case ast.UnaryOp(op=ast.Not(), operand=operand) if _is_predicate(operand):
            yield from _negated(unit, value)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right) if unit.text(right) == "1" and _is_count(left):
            yield from _one_line(unit, Replacement(*unit.span(value), unit.text(left)))
    if _is_predicate(value):
        yield from _negated(unit, value)
    if _is_count(value):
        for suffix in (" + 1", " - 1"):
            yield from _one_line(unit, Replacement(*unit.span(value), unit.text(value) + suffix))


def default(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """A parameter's default: integers by one, booleans flipped, ``None`` and blank text to something else."""
    if not isinstance(node, ast.arguments):
        return
    for value in (*node.defaults, *node.kw_defaults):
        if value is None:
            continue
        yield from off_by_one(unit, value)
        if isinstance(value, ast.Constant) and isinstance(value.value, bool):
            others = ("False", "None") if value.value else ("True",)
        elif isinstance(value, ast.Constant) and (value.value is None or value.value in ("", " ")):
            others = _DEFAULTS[value.value]
        else:
            continue
        for other in others:
            yield from _one_line(unit, Replacement(*unit.span(value), other))


def _atoms(condition: ast.expr) -> Iterator[ast.expr]:
    if isinstance(condition, ast.BoolOp):
        for value in condition.values:
            yield from _atoms(value)
    else:
        yield condition


def _negated(unit: Unit, node: ast.expr) -> Iterator[Replacement]:
    """``x`` to ``not x`` and back; the replaced text is the first token, so that it is never empty."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and isinstance(node.operand, _NEGATABLE):
        dropped, first = unit.leading(node, 2)
        yield from _one_line(unit, Replacement(dropped.start, first.end, first.text))
    elif isinstance(node, _NEGATABLE):
        (first,) = unit.leading(node)
        yield from _one_line(unit, Replacement(first.start, first.end, f"not {first.text}"))


def _swapped(unit: Unit, left: ast.expr, right: ast.expr) -> Iterator[Replacement]:
    (start, left_end), (right_start, end) = unit.span(left), unit.span(right)
    middle = unit.source.text[left_end:right_start]
    yield from _one_line(unit, Replacement(start, end, unit.text(right) + middle + unit.text(left)))


def _detached(unit: Unit, node: ast.If) -> Iterator[Replacement]:
    """``elif`` to ``if``; an ``if`` after an ``if`` without ``else`` to ``elif``.

    Not where every arm before jumps away: then both forms mean the same.
    """
    (keyword,) = unit.leading(node)
    if keyword.text == "elif":
        arms, replacement = _arms_before(unit, node), "if"
    else:
        arms, replacement = _arms_of_previous(unit, node), "elif"
    if arms and not all(isinstance(body[-1], (ast.Return, ast.Raise, ast.Break, ast.Continue)) for body in arms):
        yield Replacement(keyword.start, keyword.end, replacement)


def _arms_before(unit: Unit, node: ast.If) -> list[list[ast.stmt]]:
    arms = []
    current: ast.AST = node
    while isinstance(parent := unit.parent(current), ast.If) and _is_elif(unit, parent, current):
        arms.append(parent.body)
        current = parent
    return arms


def _arms_of_previous(unit: Unit, node: ast.If) -> list[list[ast.stmt]]:
    parent = unit.parent(node)
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and node in block and (index := block.index(node)) > 0:
            arms, previous = [], block[index - 1]
            while isinstance(previous, ast.If):
                arms.append(previous.body)
                if not previous.orelse:
                    return arms
                previous = previous.orelse[0] if _is_elif(unit, previous, previous.orelse[0]) else None
    return []


def _is_elif(unit: Unit, parent: ast.If, node: ast.AST | None) -> bool:
    return parent.orelse == [node] and isinstance(node, ast.If) and unit.leading(node)[0].text == "elif"


def _is_predicate(node: ast.expr) -> bool:
    return isinstance(node, (ast.Name, ast.Attribute, ast.Call)) and bool(_PREDICATE.match(terminal_name(node)))


def _is_count(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        literal = isinstance(node.right, ast.Constant) or isinstance(node.left, (ast.Constant, ast.JoinedStr))
        return isinstance(node.op, (ast.Sub, ast.FloorDiv)) and not literal
    return isinstance(node, ast.Call) and terminal_name(node) in _COUNT


def _one_line(unit: Unit, replacement: Replacement) -> Iterator[Replacement]:
    if unit.one_line(replacement.start, replacement.end):
        yield replacement
