"""Problems for a tiny policy out of source files and synth tasks: what builders know, in the form the rl room reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from envfarm_builders.synth.edits import Edit as SourceEdit
from envfarm_builders.synth.edits import is_valid, unit_edits
from envfarm_builders.synth.unit import SourceText, Unit, units
from envfarm_rl.repair.problem import LINES, Edit, Problem, edit_at

FAILURE_CHARACTERS = 160
"""Of what a failing test said; a tiny policy has a short context."""


def function_units(source: str) -> list[Unit]:
    """The functions of a source file; none where it is not Python that this interpreter reads."""
    try:
        return units(SourceText(source), ast.parse(source))
    except (SyntaxError, ValueError):  # the boundary to subjects' files
        return []


def valid_edits(unit: Unit) -> list[SourceEdit]:
    """The valid edits of a function, in order of position."""
    return [edit for edit in unit_edits(unit) if is_valid(unit, edit)]


def problem(unit: Unit, edits: Sequence[SourceEdit], path: str, *, failure: str = "", shown_test: str = "") -> Problem:
    """The function as a problem."""
    base = unit.first_line - 1
    shown = shown_lines(unit)
    margin = min(len(text) - len(text.lstrip()) for _, text in shown)
    return Problem(
        path=path,
        base=base,
        name=unit.qualname,
        lines=tuple((number - base, text[margin:]) for number, text in shown),
        edits=tuple(sed_edit(edit, base) for edit in edits),
        failure=failure[:FAILURE_CHARACTERS],
        shown_test=shown_test,
    )


def sed_edit(edit: SourceEdit, base: int) -> Edit:
    """An edit of a file, its line counted from the function's first."""
    return edit_at(edit.line - base, edit.line_before, edit.col, edit.original, edit.mutated)


def fits(unit: Unit, *, min_lines: int = 4, max_lines: int = 60) -> bool:
    """Whether a function has a length that goes on the page."""
    return min_lines <= unit.length <= max_lines and unit.last_line - unit.first_line < LINES


def shown_lines(unit: Unit) -> list[tuple[int, str]]:
    """Number in the file and text, without docstring, blank lines and lines of comment only."""
    hidden = _docstring_lines(unit.node)
    return [
        (number, text)
        for number in range(unit.first_line, unit.last_line + 1)
        if number not in hidden and (text := _line(unit, number)).strip() and not text.lstrip().startswith("#")
    ]


def _line(unit: Unit, number: int) -> str:
    return unit.source.lines[number - 1].rstrip("\r\n")


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    first = node.body[0]
    if (
        len(node.body) > 1
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return set()


_MESSAGE = re.compile(r"```\n(.*?)\n```", re.DOTALL)


def failure_of(statement: str) -> str:
    """What the failing test said, out of a synth task's statement; empty where it quotes nothing."""
    found = _MESSAGE.search(statement)
    return " ".join(found[1].split()) if found else ""
