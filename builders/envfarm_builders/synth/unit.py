"""A function of a source file with exact text positions: what operators look at.

The unit is an outermost function or method; functions nested in it belong to it. Code that runs at import (module and
class bodies) is in no unit.
"""

from __future__ import annotations

import ast
import bisect
import re
import tokenize
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from .scope import Function, functions, hidden_children

_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_LAYOUT = frozenset({
    tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
})  # fmt: skip
_SHARED = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop, ast.cmpop)
"""Nodes without a place: the parser uses one object for all of them."""


class SourceText:
    """A file's text and where its lines begin. Line endings stay as they are."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: list[str] = _LINE.findall(text)
        self._starts = [0]
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, byte_col: int) -> int:
        """Character offset of a position as ``ast`` gives it: lines from 1, columns in UTF-8 bytes."""
        text = self.lines[line - 1]
        col = byte_col if text.isascii() else len(text.encode()[:byte_col].decode(errors="ignore"))
        return self._starts[line - 1] + col

    def start(self, line: int) -> int:
        """Character offset at which a line begins."""
        return self._starts[line - 1]

    def position(self, offset: int) -> tuple[int, int]:
        """(line from 1, column from 0, in characters)."""
        line = bisect.bisect_right(self._starts, offset, hi=max(1, len(self.lines)))
        return line, offset - self._starts[line - 1]


class Token(NamedTuple):
    """A token; offsets into the file."""

    start: int
    end: int
    text: str


class Unit:
    """One function. ``nodes()`` gives what may be edited; ``valid()`` says whether an edit gives another program."""

    def __init__(self, source: SourceText, node: Function, qualname: str) -> None:
        self.source = source
        self.node = node
        self.qualname = qualname
        self.first_line = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        self.last_line = node.end_lineno or node.lineno

    @property
    def length(self) -> int:
        """Lines from ``def`` to the end."""
        return self.last_line - self.node.lineno + 1

    @property
    def body_lines(self) -> range:
        """Lines of the body: what runs when the function is called."""
        return range(self.node.body[0].lineno, self.last_line + 1)

    def nodes(self) -> list[ast.AST]:
        """Editable nodes in source order: no annotations, decorators, f-strings, messages or metadata."""
        return [self.node, *self._parents]

    def editable(self, node: ast.AST) -> bool:
        """Whether the node is among ``nodes()``."""
        return node in self._parents

    def parent(self, node: ast.AST) -> ast.AST | None:
        return self._parents.get(node)

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """Parents, nearest first, up to the function."""
        current = self._parents.get(node)
        while current is not None:
            yield current
            current = self._parents.get(current)

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement that holds ``node``, or ``node`` itself."""
        for candidate in (node, *self.ancestors(node)):
            if isinstance(candidate, ast.stmt):
                return candidate
        return self.node

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Offsets of a node's text, without parentheses around it."""
        return (
            self.source.offset(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self.source.offset(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.source.text[start:end]

    def between(self, left: ast.AST, right: ast.AST) -> list[Token]:
        """Tokens between two neighbours, without parentheses and layout: an operator."""
        found = self._tokens_from(self.span(left)[1], self.span(right)[0])
        return [token for token in found if token.text not in ("(", ")")]

    def leading(self, node: ast.AST, count: int = 1) -> list[Token]:
        """The first tokens of a node."""
        start, end = self.span(node)
        return self._tokens_from(start, end)[:count]

    def one_line(self, start: int, end: int) -> bool:
        """Whether a stretch of text holds no line break."""
        return "\n" not in self.source.text[start:end]

    def valid(self, start: int, end: int, text: str) -> bool:
        """Whether the file with ``[start:end]`` replaced still compiles and is another program.

        Only this function is compiled again: nothing outside it can depend on an edit inside it.
        """
        low, high = self._extent
        segment = self.source.text[low:start] + text + self.source.text[end:high]
        try:
            return self._dump(segment) != self._original
        except (SyntaxError, ValueError):
            # The compiler is the judge of what is a program.
            return False

    @cached_property
    def _parents(self) -> dict[ast.AST, ast.AST]:
        """Editable node -> its parent, depth first."""
        parents: dict[ast.AST, ast.AST] = {}

        def walk(node: ast.AST) -> None:
            hidden = hidden_children(node)
            for child in ast.iter_child_nodes(node):
                if child not in hidden and not isinstance(child, _SHARED):
                    parents[child] = node
                    walk(child)

        walk(self.node)
        return parents

    @cached_property
    def _extent(self) -> tuple[int, int]:
        return self.source.start(self.first_line), self.source.start(self.last_line + 1)

    @cached_property
    def _original(self) -> str:
        low, high = self._extent
        return self._dump(self.source.text[low:high])

    def _dump(self, segment: str) -> str:
        text = "if 1:\n" + segment if self.node.col_offset else segment
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
            compile(tree, "<edit>", "exec", dont_inherit=True)
        return ast.dump(tree)

    @cached_property
    def _tokens(self) -> list[Token]:
        lines = iter(self.source.lines[self.first_line - 1 : self.last_line])
        found = []
        for token in tokenize.generate_tokens(lambda: next(lines, "")):
            if token.type not in _LAYOUT:
                ends = [
                    self.source.start(self.first_line + row - 1) + column for row, column in (token.start, token.end)
                ]
                found.append(Token(ends[0], ends[1], token.string))
        return found

    def _tokens_from(self, start: int, end: int) -> list[Token]:
        low = bisect.bisect_left(self._tokens, start, key=lambda token: token.start)
        high = bisect.bisect_left(self._tokens, end, key=lambda token: token.start)
        return self._tokens[low:high]


def units(source: SourceText, tree: ast.Module) -> list[Unit]:
    """The units of a file, in source order."""
    return [Unit(source, node, qualname) for node, qualname in functions(tree)]
