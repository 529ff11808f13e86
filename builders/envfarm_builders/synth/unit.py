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

Function = ast.FunctionDef | ast.AsyncFunctionDef

_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_LAYOUT = frozenset({
    tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
})  # fmt: skip
_TYPING = frozenset({"Annotated", "Callable", "Dict", "Literal", "List", "Optional", "Tuple", "Type", "Union"})
_UNOBSERVABLE_KEYWORDS = frozenset({"stacklevel"})
_METADATA = frozenset({"__all__", "__slots__", "__version__"})
_PLATFORM = frozenset({"version_info", "platform", "PY2", "PY3"})


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
        self._parents: dict[ast.AST, ast.AST] = {}
        self._nodes = list(self._walk(node))

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
        return self._nodes

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

    def _walk(self, node: ast.AST) -> Iterator[ast.AST]:
        yield node
        hidden = hidden_children(node)
        for child in ast.iter_child_nodes(node):
            if child not in hidden and not isinstance(child, (ast.expr_context, ast.operator, ast.boolop, ast.cmpop)):
                self._parents[child] = node
                yield from self._walk(child)


def hidden_children(node: ast.AST) -> set[ast.AST]:
    """Children in which an edit would be unobservable, unnatural, or without reliable positions."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            hidden = [*node.decorator_list, getattr(node, "returns", None), *getattr(node, "type_params", [])]
        case ast.arg() | ast.AnnAssign():
            hidden = [node.annotation]
        case ast.JoinedStr():
            hidden = list(node.values)
        case ast.Assert():
            hidden = [node.msg]
        case ast.Subscript() if terminal_name(node.value) in _TYPING:
            hidden = [node.slice]
        case ast.keyword() if node.arg in _UNOBSERVABLE_KEYWORDS:
            hidden = [node.value]
        case ast.Assign() if any(terminal_name(target) in _METADATA for target in node.targets):
            hidden = [node.value]
        case ast.If() if never_runs(node):
            hidden = [node.test, *node.body]
        case ast.If() | ast.IfExp() if mentions(node.test, _PLATFORM):
            hidden = [node.test]
        case _:
            hidden = []
    return {child for child in hidden if child is not None}


def terminal_name(node: ast.AST | None) -> str:
    """``c`` of ``c``, ``a.c`` and ``a.c()``; empty for anything else."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return node.attr
        case ast.Call():
            return terminal_name(node.func)
        case _:
            return ""


def mentions(node: ast.AST, names: frozenset[str]) -> bool:
    """Whether one of the names is read in ``node``."""
    return any(terminal_name(child) in names for child in ast.walk(node))


def never_runs(node: ast.If) -> bool:
    """Whether a branch is for type checkers or for running the file as a script."""
    return mentions(node.test, frozenset({"TYPE_CHECKING", "__name__"}))


def units(source: SourceText, tree: ast.Module) -> list[Unit]:
    """Every outermost function, in source order; overload stubs left out."""
    return [
        Unit(source, node, qualname)
        for node, qualname in _functions(tree.body, "")
        if not any(terminal_name(decorator) == "overload" for decorator in node.decorator_list)
    ]


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[Function, str]]:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node, prefix + node.name
            case ast.ClassDef():
                yield from _functions(node.body, f"{prefix}{node.name}.")
            case ast.If():
                yield from _functions(([] if never_runs(node) else node.body) + node.orelse, prefix)
            case ast.Try():
                handlers = [statement for handler in node.handlers for statement in handler.body]
                yield from _functions(node.body + handlers + node.orelse + node.finalbody, prefix)
            case ast.With():
                yield from _functions(node.body, prefix)
