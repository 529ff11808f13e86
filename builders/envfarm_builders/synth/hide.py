"""Take tests out of a test file by name, leaving everything else as it was."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator

from envfarm.core.errors import BuilderError, Reason

Definition = ast.FunctionDef | ast.AsyncFunctionDef


def function_of(test_id: str) -> tuple[str, tuple[str, ...]]:
    """``a.py::C::t[x]`` -> (``a.py``, (``C``, ``t``)): every parameter belongs to its function."""
    path, *names = test_id.split("[", 1)[0].split("::")
    return path, tuple(names)


def holds_test(source: str, names: tuple[str, ...]) -> bool:
    """Whether a test file defines that test function or method, itself or through a class of the same file."""
    return bool(_find(_parse(source), names))


def hide_tests(source: str, functions: Iterable[tuple[str, ...]]) -> str:
    """The file without those test functions, their decorators and the comments right above them.

    A body that would be left empty gets ``pass``. Raises ``BuilderError`` for a function that is not written in this
    file (generated, inherited from another file), since it could not be hidden.
    """
    tree = _parse(source)
    doomed: set[Definition] = set()
    for names in functions:
        found = _find(tree, names)
        if not found:
            raise _refused(f"'{'::'.join(names)}' is not written in it")
        doomed |= set(found)
    lines = source.split("\n")
    for block in list(_blocks(tree)):
        gone = [node for node in block if isinstance(node, Definition) and node in doomed]
        for node in gone:
            filler = " " * node.col_offset + "pass" if len(gone) == len(block) and node is gone[0] else None
            _blank(lines, node, filler)
    kept = "\n".join(line for line in lines if line is not _GONE)
    remaining = _parse(kept)
    if any(_find(remaining, names) for names in functions):
        raise _refused("a test of that name is left after hiding it")
    return kept


_GONE = "\0gone"


def _blank(lines: list[str], node: Definition, filler: str | None) -> None:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    last = (node.end_lineno or node.lineno) - 1
    tail = lines[last].encode()[node.end_col_offset or 0 :].strip()
    if lines[first][: node.col_offset].strip() or (tail and not tail.startswith(b"#")):
        raise _refused(f"'{node.name}' shares a line with something else")
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    while first > 0 and lines[first - 1].startswith(indent + "#"):
        first -= 1
    for number in range(first, last + 1):
        lines[number] = _GONE
    if filler is not None:
        lines[first] = filler
        return
    while first > 0 and not lines[first - 1].strip() and last + 1 < len(lines):
        first -= 1
        lines[first] = _GONE  # the blank lines after it separate its neighbours


def _find(tree: ast.Module, names: tuple[str, ...]) -> list[Definition]:
    if not names:
        return []
    *classes, name = names
    scopes: list[list[ast.stmt]] = [tree.body]
    for index, class_name in enumerate(classes):
        scopes = [node.body for scope in scopes for node in _classes(scope) if node.name == class_name]
        if index == len(classes) - 1 and not any(list(_own(scope, name)) for scope in scopes):
            return _inherited(tree, class_name, name, set())
    return [node for scope in scopes for node in _own(scope, name)]


def _inherited(tree: ast.Module, class_name: str, name: str, seen: set[str]) -> list[Definition]:
    if class_name in seen:
        return []
    seen.add(class_name)
    for node in _classes(tree.body):
        if node.name != class_name:
            continue
        if own := list(_own(node.body, name)):
            return own
        for base in node.bases:
            if isinstance(base, ast.Name) and (found := _inherited(tree, base.id, name, seen)):
                return found
    return []


def _own(scope: list[ast.stmt], name: str) -> Iterator[Definition]:
    for node in _flat(scope):
        if isinstance(node, Definition) and node.name == name:
            yield node


def _classes(scope: list[ast.stmt]) -> Iterator[ast.ClassDef]:
    for node in _flat(scope):
        if isinstance(node, ast.ClassDef):
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


def _parse(source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise _refused(f"it is not Python that this interpreter reads ({error})") from error


def _refused(why: str) -> BuilderError:
    return BuilderError(f"Tests of a file cannot be hidden: {why}.", reason=Reason.no_tests, phase="synth")
