"""Where a test says what it expects: the places at which a wrong value makes a twin of the test.

A twin is a copy of a test with one such place changed. An implementation that passes the test must fail the twin;
one that passes both answers to anything it is compared with.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from . import perturb
from .expectations import OPPOSITE, Mode, targets

MAX_SITES = 4
"""Sites of one function that are tried."""


@dataclass(frozen=True)
class Site:
    """One place, as byte offsets of the file."""

    key: str
    mode: Mode
    start: int
    end: int
    text: str

    def variants(self, count: int, rng: Random) -> list[str]:
        """Up to ``count`` different wrong texts, none of them the right one."""
        found: dict[str, None] = {}
        for _ in range(count * 8):
            if len(found) == count:
                break
            text = self._variant(rng)
            if text is not None and text != self.text:
                found[text] = None
        return list(found)

    def _variant(self, rng: Random) -> str | None:
        match self.mode:
            case Mode.constant:
                return (perturb.absent if self.key.endswith(":in") else perturb.constant)(self.text, rng)
            case Mode.raises:
                return rng.choice(perturb.RARE_ERRORS)
            case Mode.unrelated:
                return rng.choice(perturb.RARE_TYPES) if self.key.endswith("type") else perturb.unrelated(rng)
            case Mode.negation:
                return OPPOSITE.get(self.text) or f"not ({self.text})"


@dataclass(frozen=True)
class Function:
    """A test function: whole lines ``[start, end)``, decorators included, and where its name stands."""

    qualname: str
    name: str
    name_at: int
    start: int
    end: int
    sites: tuple[Site, ...]


@dataclass
class Module:
    """A test file as far as twins and canaries need it."""

    source: bytes
    functions: dict[str, Function] = field(default_factory=dict)
    gaps: list[int] = field(default_factory=list)
    """Offsets between top-level definitions."""
    names: set[str] = field(default_factory=set)


@lru_cache(maxsize=64)
def read_module(source: bytes) -> Module | None:
    """None for a file that is no plain UTF-8 Python. The same module for the same source: it is for reading only."""
    try:
        text = source.decode("utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # a file of another Python version, say: it gets no twins
        return None
    if "\r" in text.replace("\r\n", "") or "\f" in text or text.startswith("\ufeff"):
        return None
    module = Module(source)
    lines = _Lines(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            module.names.add(node.id)
        elif isinstance(node, ast.ClassDef):
            module.names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module.names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
    bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.gaps.append(lines.after(node))
    for prefix, node in _functions(tree.body, "", bases):
        module.names.add(node.name)
        function = _function(prefix, node, lines)
        if function is not None:
            module.functions[function.qualname] = function
    return module


class _Lines:
    """Byte offsets of AST positions."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._starts = [0]
        for line in source.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: ast.expr) -> tuple[int, int]:
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno or 0, node.end_col_offset or 0)

    def text(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode("utf-8")

    def after(self, node: ast.stmt) -> int:
        return min(self._starts[node.end_lineno or 0], len(self.source))


def _functions(
    body: list[ast.stmt], prefix: str, bases: set[str]
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix, node
        # The tests of a class that others inherit run under several ids: left alone.
        elif isinstance(node, ast.ClassDef) and node.name not in bases:
            yield from _functions(node.body, f"{prefix}{node.name}::", bases)


def _function(prefix: str, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: _Lines) -> Function | None:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(name.split("(")[0].split(".")[-1] in ("given", "overload", "staticmethod") for name in decorators):
        return None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    name_at = lines.source.find(node.name.encode(), lines.at(node.lineno, node.col_offset) + 3)
    found: dict[tuple[int, int], Site] = {}
    for number, (mode, target, note) in enumerate(targets(node)):
        span = lines.span(target) if isinstance(target, ast.expr) else target
        text = lines.source[span[0] : span[1]].decode("utf-8")
        found.setdefault(span, Site(f"{number}:{mode}{note}", mode, *span, text))
    sites = sorted(found.values(), key=lambda site: list(Mode).index(site.mode))
    if any(site.mode is not Mode.negation for site in sites):
        sites = [site for site in sites if site.mode is not Mode.negation]
    return Function(
        prefix + node.name, node.name, name_at, lines.at(first, 0), lines.after(node), tuple(sites[:MAX_SITES])
    )
