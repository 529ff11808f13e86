"""Optional requirements that the project's own modules need as soon as a test imports them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..findings import Files, Findings, Weight
from ..names import HEAVY, distribution_for
from .imports import top_level_modules
from .layout import test_files
from .setup_py import parse

_ROOTS = ("", "src/", "lib/", "python/")
_DEPTH = 2
"""Steps from a test module through the project's own modules; further ones are mostly reached by packages' own
``__init__``, whose imports the runtime dependencies answer for."""
_MOST_MODULES = 150


def read_reached(files: Files, findings: Findings) -> None:
    """Want what an extra of the project names, where a module that a test imports needs it without a guard."""
    optional = _optional(findings)
    wanted = findings.names()
    if not optional.keys() - wanted:
        return
    for path in _reached(files):
        tree = parse(files[path].decode("utf-8", "replace"))
        for module in sorted(top_level_modules(tree)) if tree else ():
            name = canonicalize_name(distribution_for(module) or module.split(".")[0])
            if name in optional and name not in wanted and name not in HEAVY:
                wanted.add(name)
                findings.want([optional[name]], Weight.guessed, f"import {module} in {path}, which tests import")


def _optional(findings: Findings) -> dict[str, str]:
    """Distribution -> requirement, of every extra that the metadata declares."""
    found: dict[str, str] = {}
    for texts in findings.declared.values():
        for text in texts:
            try:
                found.setdefault(canonicalize_name(Requirement(text).name), text)
            except InvalidRequirement:
                continue
    return found


def _reached(files: Files) -> list[str]:
    """The project's own files that tests import, directly or through one another."""
    tests = test_files(files)
    layer = list(tests)
    seen = dict.fromkeys(layer)
    for _ in range(_DEPTH):
        following: list[str] = []
        for path in layer:
            tree = parse(files[path].decode("utf-8", "replace"))
            for module in _imported(tree, path) if tree else ():
                place = module.replace(".", "/")
                for candidate in (f"{root}{place}{end}" for root in _ROOTS for end in (".py", "/__init__.py")):
                    if candidate in files and candidate not in seen and len(seen) < _MOST_MODULES + len(layer):
                        seen[candidate] = None
                        following.append(candidate)
        layer = following
    return list(seen)[len(tests) :]


def _imported(tree: ast.Module, path: str) -> Iterator[str]:
    """Dotted names that a file may import, functions included; ``from a import b`` gives ``a`` and ``a.b``."""
    package = path.rsplit("/", 1)[0].split("/") if "/" in path else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from filter(None, [base, *(f"{base}.{alias.name}" for alias in node.names)])
