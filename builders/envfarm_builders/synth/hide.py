"""Take tests out of a test file by name, leaving everything else as it was."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache

from envfarm.core.errors import BuilderError, Reason

Definition = ast.FunctionDef | ast.AsyncFunctionDef


def hide_tests(source: str, functions: Sequence[tuple[str, ...]]) -> str:
    """The file without those test functions, their decorators and the comments right above them.

    A body that would be left empty gets ``pass``. Raises ``BuilderError`` for a function that is not written in this
    file, since it could not be hidden; ``locate`` tells where one is.
    """
    tree = parse_tests(source)
    doomed: set[Definition] = set()
    for names in functions:
        found = definitions(tree, names)
        if not found:
            raise _refused(f"'{'::'.join(names)}' is not written in it")
        doomed |= set(found)
    lines = source.split("\n")
    comments = _comment_lines(source)
    for block in list(_blocks(tree)):
        gone = [node for node in block if isinstance(node, Definition) and node in doomed]
        for node in gone:
            filler = " " * node.col_offset + "pass" if len(gone) == len(block) and node is gone[0] else None
            _blank(lines, comments, node, filler)
    kept = "\n".join(line for line in lines if line is not _GONE)
    remaining = parse_tests(kept)
    if any(definitions(remaining, names) for names in functions):
        raise _refused("a test of that name is left after hiding it")
    return kept


_GONE = "\0gone"


def _comment_lines(source: str) -> set[int]:
    """Lines, from 0, that hold a comment: one in a string only looks like it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] - 1 for token in tokens if token.type == tokenize.COMMENT}


def _blank(lines: list[str], comments: set[int], node: Definition, filler: str | None) -> None:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    last = (node.end_lineno or node.lineno) - 1
    tail = lines[last].encode()[node.end_col_offset or 0 :].strip()
    if lines[first][: node.col_offset].strip() or (tail and not tail.startswith(b"#")):
        raise _refused(f"'{node.name}' shares a line with something else")
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    while first - 1 in comments and lines[first - 1].startswith(indent + "#"):
        first -= 1
    for number in range(first, last + 1):
        lines[number] = _GONE
    if filler is not None:
        lines[first] = filler
        return
    while first > 0 and not lines[first - 1].strip() and last + 1 < len(lines):
        first -= 1
        lines[first] = _GONE  # the blank lines after it separate its neighbours


def definitions(tree: ast.Module, names: Sequence[str]) -> list[Definition]:
    """The functions of that name, in those classes; more than one where a name is defined again."""
    *outer, name = names
    scopes = [node.body for node in classes(tree, outer)] if outer else [tree.body]
    return [node for scope in scopes for node in _own(scope, name)]


def classes(tree: ast.Module, names: Sequence[str]) -> list[ast.ClassDef]:
    """The classes of that name, each inside the one before."""
    scopes, found = [tree.body], []
    for name in names:
        found = [
            node for scope in scopes for node in _flat(scope) if isinstance(node, ast.ClassDef) and node.name == name
        ]
        scopes = [node.body for node in found]
    return found


def _own(scope: list[ast.stmt], name: str) -> Iterator[Definition]:
    for node in _flat(scope):
        if isinstance(node, Definition) and node.name == name:
            yield node


def _flat(scope: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a scope, also those inside ``if``, ``try`` and ``with``."""
    for node in scope:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            for block in _own_blocks(node):
                yield from _flat(block)


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        yield from _own_blocks(node)


def _own_blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block
    for handler in getattr(node, "handlers", []):
        if isinstance(node, ast.Try):
            yield handler.body


@lru_cache(maxsize=64)
def parse_tests(source: str) -> ast.Module:
    """A test file's syntax tree, the same one for the same source: it is for reading only. Raises ``BuilderError`` for
    what is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise _refused(f"it is not Python that this interpreter reads ({error})") from error


def _refused(why: str) -> BuilderError:
    return BuilderError(f"Tests of a file cannot be hidden: {why}.", reason=Reason.no_tests, phase="synth")
