"""What of a source file may be edited at all: functions, without what is unobservable or unnatural to edit."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef

_TYPING = frozenset({"Annotated", "Callable", "Dict", "Literal", "List", "Optional", "Tuple", "Type", "Union"})
_UNOBSERVABLE_KEYWORDS = frozenset({"stacklevel"})
_METADATA = frozenset({"__all__", "__slots__", "__version__"})
_PLATFORM = frozenset({"version_info", "platform", "PY2", "PY3"})


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


def functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """Every outermost function with its qualified name, in source order; overload stubs left out."""
    for node, qualname in _functions(tree.body, ""):
        if not any(terminal_name(decorator) == "overload" for decorator in node.decorator_list):
            yield node, qualname


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
