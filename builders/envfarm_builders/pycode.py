"""Python sources compared by what they do: normalised syntax trees, tests with what they rest on, names."""

from __future__ import annotations

import ast
import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_WORD = re.compile(r"[A-Za-z_]\w*")
_TYPING = frozenset({"typing", "typing_extensions", "collections.abc", "_typeshed", "types"})
_VERSION_NAMES = frozenset({"__version__", "version", "VERSION", "__version_info__", "version_info", "version_tuple",
                            "__version_tuple__", "__date__", "__commit_id__", "commit_id", "__author__", "__license__",
                            "__copyright__", "__email__"})  # fmt: skip
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@lru_cache(maxsize=256)
def parse(source: bytes) -> ast.Module | None:
    """The syntax tree, or None for what is not Python 3 (or nested beyond the parser's limits). Shared: copy before
    changing it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old sources escape carelessly
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # a boundary: the text is not ours


def behaves_differently(base: bytes, fix: bytes) -> bool:
    """Whether two modules differ in more than comments, docstrings, annotations, imports for typing, order of imports,
    version strings, or spelling that Python 3 made needless (``object``, ``super(A, self)``). True where one of them
    cannot be parsed."""
    before, after = parse(base), parse(fix)
    if before is None or after is None:
        return True
    # Normalising is slow and most of a module is untouched: statements whose text is found on both sides are left out.
    old, new = Counter(_texts(before, base)), Counter(_texts(after, fix))
    return _normalised(before, base, new) != _normalised(after, fix, old)


def _normalised(tree: ast.Module, source: bytes, other: Counter[str]) -> tuple[list[str], list[str]]:
    left = Counter(other)
    kept: list[ast.stmt] = []
    for node, text in zip(tree.body, _texts(tree, source), strict=True):
        if left[text] > 0:
            left[text] -= 1
        else:
            kept.append(node)
    body = Normaliser().visit(copy.deepcopy(ast.Module(kept, []))).body if kept else []
    imports = sorted({ast.dump(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)})
    return imports, [ast.dump(node) for node in body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass)]


def _texts(tree: ast.Module, source: bytes) -> list[str]:
    lines = source.decode("utf-8", "replace").splitlines()
    return [text_of(node, lines) for node in tree.body]


def text_of(node: ast.stmt, lines: list[str]) -> str:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(item.lineno for item in decorators)])
    return "\n".join(lines[first - 1 : node.end_lineno])


@lru_cache(maxsize=1024)
def words(source: bytes) -> frozenset[str]:
    """Every identifier-like word of a text."""
    return frozenset(_WORD.findall(source.decode("utf-8", "replace")))


def new_names(base: bytes, fix: bytes) -> set[str]:
    """Identifiers in code (not in comments or strings) of ``fix`` that are no word of ``base``."""
    tree = parse(fix)
    return (identifiers(tree) if tree else set()) - words(base)


def identifiers(node: ast.AST) -> set[str]:
    """Names, attributes, arguments, keywords and definitions below ``node``."""
    found: set[str] = set()
    for child in ast.walk(node):
        match child:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                found.add(name)
            case ast.keyword(arg=str(name)):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=alias):
                found.update(name.split("."))
                if alias:
                    found.add(alias)
            case _:
                pass
    return found


def module_imports(tree: ast.Module, package: str = "") -> Iterator[tuple[str, str]]:
    """Unguarded imports that run when the module is imported."""
    for node in import_time_statements(tree.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = package.split(".") if package else []
                parts = parts[: len(parts) - (node.level - 1)] if node.level > 1 else parts
                module = ".".join([*parts, *([module] if module else [])])
            for alias in node.names:
                yield module, alias.name


@dataclass(frozen=True)
class Offer:
    """Names that a module offers to importers."""

    names: frozenset[str]
    """Bound at its top level."""
    dynamic: frozenset[str]
    """Words of a module that makes names as it goes (``__getattr__``, ``globals()``): any of them may be one."""
    stars: tuple[tuple[int, str], ...]
    """``from . import *``: level and module."""
    unknown: bool = False
    """Nothing can be told: not Python 3, or compiled."""


@lru_cache(maxsize=1024)
def offer(source: bytes) -> Offer:
    """What a module offers, from its syntax."""
    tree = parse(source)
    if tree is None:
        return Offer(frozenset(), frozenset(), (), unknown=True)
    names: set[str] = set()
    stars: list[tuple[int, str]] = []
    for node in statements(tree.body):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            stars.append((node.level, node.module or ""))
        names.update(bound(node))
    dynamic = "__getattr__" in names or any(
        isinstance(node, ast.Name) and node.id == "globals" for node in ast.walk(tree)
    )
    return Offer(frozenset(names), words(source) if dynamic else frozenset(), tuple(stars))


class Normaliser(ast.NodeTransformer):
    """Takes out what has no effect on what a test can see."""

    def _body(self, body: list[ast.stmt]) -> list[ast.stmt]:
        kept: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # docstrings, and constants on a line of their own
            result = self.visit(statement)
            if result is not None:
                kept.append(result)
        return kept or [ast.Pass()]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._body(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(item) if isinstance(item, ast.AST) else item for item in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST | None:
        if any("overload" in identifiers(item) for item in node.decorator_list):
            return None
        node.returns = None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST | None:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.bases = [base for base in node.bases if not (isinstance(base, ast.Name) and base.id == "object")]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            # In a class body this may be a field of a dataclass: its name counts, its type does not.
            return ast.Expr(node.target) if isinstance(node.target, ast.Name) else None
        return self.visit(ast.Assign(targets=[node.target], value=node.value, lineno=node.lineno, type_comment=None))

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if targets and targets <= _VERSION_NAMES and _is_literal(node.value):
            return None
        node.type_comment = None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if "TYPE_CHECKING" in identifiers(node.test):
            return None
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        node.names = [alias for alias in node.names if alias.name not in _TYPING]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.level == 0 and (node.module in _TYPING or node.module == "__future__") else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "cast" and len(node.args) == 2 and not node.keywords:
            return self.visit(node.args[1])
        if called == "super" and len(node.args) == 2:
            node.args = []
        return self.generic_visit(node)


def _is_literal(node: ast.AST) -> bool:
    return all(isinstance(child, ast.Constant | ast.Tuple | ast.List | ast.Load) for child in ast.walk(node))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of the blocks in it, but not of definitions."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            for name in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)


def import_time_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """:func:`statements`, less what a ``try`` guards and what only type checkers see."""
    for node in body:
        if isinstance(node, ast.Try):
            continue
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" in identifiers(node.test):
                continue
            yield from import_time_statements(node.body)
            yield from import_time_statements(node.orelse)
        yield node


def bound(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {child.id for target in targets for child in ast.walk(target) if isinstance(child, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(alias.asname or alias.name).partition(".")[0] for alias in names}
        case ast.For(target=target):
            return {child.id for child in ast.walk(target) if isinstance(child, ast.Name)}
        case _:
            return set()
