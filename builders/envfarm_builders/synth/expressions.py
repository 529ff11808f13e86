"""Operators on expressions: comparison, boolean, arithmetic, integer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from .replacement import Replacement
from .unit import Token, Unit

_COMPARISONS = {
    "<": ("<=", ">", ">="),
    "<=": ("<", ">", ">="),
    ">": ("<", "<=", ">="),
    ">=": ("<", "<=", ">"),
    "==": ("!=",),
    "!=": ("==",),
    "is": ("is not",),
    "is not": ("is",),
    "in": ("not in",),
    "not in": ("in",),
}
_ARITHMETIC = {
    "+": ("-",),
    "-": ("+",),
    "*": ("//", "/", "%"),
    "//": ("*", "/", "%"),
    "/": ("*", "//", "%"),
    "%": ("*", "//", "/"),
}
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,5}")
LARGEST_INTEGER = 999_999
"""Literals beyond this are left alone, in both directions."""


def comparison(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """``<`` to the other orderings; ``==``/``!=``, ``is``/``is not``, ``in``/``not in``. Chains link by link."""
    if not isinstance(node, ast.Compare):
        return
    operands = [node.left, *node.comparators]
    for left, right in pairwise(operands):
        yield from _swap_operator(unit, unit.between(left, right), _COMPARISONS)


def boolean(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """``and``/``or``, ``True``/``False``."""
    if isinstance(node, ast.BoolOp):
        for left, right in pairwise(node.values):
            yield from _swap_operator(unit, unit.between(left, right), {"and": ("or",), "or": ("and",)})
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool) and not is_claimed(unit, node):
        yield Replacement(*unit.span(node), str(not node.value))


def arithmetic(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """``+``/``-``, and ``*``, ``/``, ``//``, ``%`` among themselves, augmented too. Not where text is put together."""
    if isinstance(node, ast.BinOp) and not _is_textual(node.left) and not _is_textual(node.right):
        yield from _swap_operator(unit, unit.between(node.left, node.right), _ARITHMETIC)
    elif isinstance(node, ast.AugAssign) and not _is_textual(node.value):
        table = {key + "=": tuple(other + "=" for other in others) for key, others in _ARITHMETIC.items()}
        yield from _swap_operator(unit, unit.between(node.target, node.value), table)


def integer(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """A decimal literal, with its sign, plus and minus one."""
    if not is_claimed(unit, node):
        yield from off_by_one(unit, node)


def off_by_one(unit: Unit, node: ast.AST) -> Iterator[Replacement]:
    """The two neighbours of an integer literal."""
    value = _literal(unit, node)
    parent = unit.parent(node)
    if value is None or isinstance(parent, ast.Attribute):
        return
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow) and parent.left is node:
        return  # a sign would bind to the power, not to the literal
    for other in (value - 1, value + 1):
        if abs(other) <= LARGEST_INTEGER:
            yield Replacement(*unit.span(node), str(other))


def is_claimed(unit: Unit, node: ast.AST) -> bool:
    """Whether a constant belongs to the operators ``return`` or ``default``."""
    parent = unit.parent(node)
    return isinstance(parent, ast.Return) or (
        isinstance(parent, ast.arguments) and node in (*parent.defaults, *parent.kw_defaults)
    )


def _literal(unit: Unit, node: ast.AST) -> int | None:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)):
            sign, digits = -1, node.operand
        case ast.Constant(value=int() as value) if not _is_signed(unit.parent(node)):
            sign, digits = 1, node
        case _:
            return None
    if isinstance(value, bool) or not _DECIMAL.fullmatch(unit.text(digits)):
        return None
    return sign * value if unit.one_line(*unit.span(node)) else None


def _is_signed(parent: ast.AST | None) -> bool:
    return isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub)


def _is_textual(node: ast.expr) -> bool:
    """Whether an operand is text or a display. Looks down the left side, which no edit of the operator moves."""
    while isinstance(node, ast.BinOp):
        if _is_textual(node.right):
            return True
        node = node.left
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (str, bytes))
    return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp))


def _swap_operator(unit: Unit, tokens: list[Token], table: dict[str, tuple[str, ...]]) -> Iterator[Replacement]:
    if not tokens or not unit.one_line(start := tokens[0].start, end := tokens[-1].end):
        return
    for other in table.get(" ".join(token.text for token in tokens), ()):
        yield Replacement(start, end, other)
