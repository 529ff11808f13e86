"""All valid single edits of a source file: what a task is made with, and what a policy may answer with."""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from envfarm.core.errors import BuilderError, Reason

from .operators import OPERATORS, Operator
from .replacement import Replacement
from .unit import SourceText, Unit, units


@dataclass(frozen=True, slots=True)
class Edit:
    """One change on one line of a function. Knows no path."""

    operator: Operator
    function: str
    """Qualified name of the outermost function: ``Cache.get``."""
    function_line: int
    """Line of its ``def``: tells functions of one name apart."""
    line: int
    """From 1."""
    col: int
    """From 0, in characters."""
    original: str
    mutated: str
    start: int
    """Character offset in the source."""
    statement_line: int
    """First line of the statement that holds the edit."""
    may_hang: bool
    """Whether the edit touches what ends a ``while`` loop."""
    source: str = field(repr=False)

    @property
    def source_after(self) -> str:
        """The whole file with the edit made."""
        return self.source[: self.start] + self.mutated + self.source[self.start + len(self.original) :]

    @property
    def line_before(self) -> str:
        """The edited line as it was, without its end."""
        return _line_at(self.source, self.start)

    @property
    def line_after(self) -> str:
        """The edited line as it becomes, without its end."""
        return _line_at(self.source_after, self.start)


def edits(source: str, *, function: str | None = None) -> list[Edit]:
    """Every valid edit of ``source`` (or of the functions of that qualified name), in order of position.

    Valid means: the file still compiles and its syntax tree differs. Raises ``BuilderError`` for text that is not
    Python this interpreter can read.
    """
    return [
        edit
        for unit in parse_units(source)
        if function is None or unit.qualname == function
        for edit in unit_edits(unit)
        if is_valid(unit, edit)
    ]


def random_edit(source: str, function: str, rng: random.Random) -> Edit:
    """A uniformly random valid edit of a known function: the baseline that every policy must beat.

    Raises ``BuilderError`` where the function has no edit or does not exist.
    """
    options = edits(source, function=function)
    if not options:
        raise BuilderError(
            f"There is no valid edit in a function called '{function}'.",
            reason=Reason.usage,
            phase="synth",
            remedy="Give the qualified name of a function of the file, such as 'Cache.get'.",
        )
    return rng.choice(options)


def parse_units(source: str) -> list[Unit]:
    """The functions of a source file. Raises ``BuilderError`` for text that is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise BuilderError(
            f"The source cannot be mutated: it is not Python that this interpreter reads ({error}).",
            reason=Reason.usage,
            phase="synth",
        ) from error
    if "\r" in source.replace("\r\n", "") or source.startswith("\ufeff"):
        return []  # lone carriage returns and byte-order marks: positions would not be the compiler's
    return units(SourceText(source), tree)


def unit_edits(unit: Unit) -> Iterator[Edit]:
    """The edits of a function in order of position, before the check that they are valid."""
    found: dict[Replacement, tuple[Operator, ast.AST]] = {}
    for node in unit.nodes():
        for operator, propose in OPERATORS.items():
            for replacement in propose(unit, node):
                found.setdefault(replacement, (operator, node))
    for replacement in sorted(found):
        operator, node = found[replacement]
        line, col = unit.source.position(replacement.start)
        yield Edit(
            operator=operator,
            function=unit.qualname,
            function_line=unit.node.lineno,
            line=line,
            col=col,
            original=unit.source.text[replacement.start : replacement.end],
            mutated=replacement.text,
            start=replacement.start,
            statement_line=unit.statement(node).lineno,
            may_hang=_may_hang(unit, node),
            source=unit.source.text,
        )


def is_valid(unit: Unit, edit: Edit) -> bool:
    """Whether the file with the edit compiles and is another program."""
    return unit.valid(edit.start, edit.start + len(edit.original), edit.mutated)


def _may_hang(unit: Unit, node: ast.AST) -> bool:
    statement = unit.statement(node)
    loops = [ancestor for ancestor in unit.ancestors(statement) if isinstance(ancestor, ast.While)]
    if isinstance(statement, ast.While):
        return True
    return bool(loops) and isinstance(statement, (ast.Break, ast.Continue, ast.AugAssign))


def _line_at(text: str, offset: int) -> str:
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    return text[start : len(text) if end < 0 else end]
