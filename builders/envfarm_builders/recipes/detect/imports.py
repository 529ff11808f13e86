"""Third-party modules that the tests import, so that most missing ones are known before the first run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from packaging.utils import canonicalize_name

from ..findings import Files, Findings, Weight, name_of
from ..names import HEAVY, STDLIB, distribution_for, is_shared
from .layout import packages, test_files
from .setup_py import parse


def read_imports(files: Files, findings: Findings) -> None:
    """Add a distribution for each import of a test module that nothing else has asked for yet.

    A module that the name map does not know counts only where the project's own text declares a distribution of the
    same name: an unknown module is never looked up on the index by guess. Of imports inside functions only the name
    map's are taken, and no large ones.
    """
    own = packages(files)
    declared = declared_names(findings)
    wanted = findings.names()
    for module, (path, hard) in sorted(imports_of_tests(files).items()):
        top = module.split(".")[0]
        if top in STDLIB or top.startswith("_") or (top in own and not is_shared(module)) or is_own(files, module):
            continue
        distribution = distribution_for(module)
        if distribution is None and hard and canonicalize_name(module) in declared:
            distribution = canonicalize_name(module)
        if not distribution or name_of(distribution) in wanted or (not hard and name_of(distribution) in HEAVY):
            continue
        wanted.add(name_of(distribution))
        findings.want([distribution], Weight.guessed, f"import {module} in {path}")


def declared_names(findings: Findings) -> set[str]:
    """Normalised names of every distribution that the project's own files name."""
    names = findings.names()
    for requirements in findings.declared.values():
        names.update(canonicalize_name(re.split(r"[^\w.-]", line.strip())[0]) for line in requirements)
    return names


def imports_of_tests(files: Files) -> dict[str, tuple[str, bool]]:
    """Module -> (a test file that imports it outside ``try`` and ``if``, whether at module level). Top-level names, but
    of shared namespaces the whole dotted name."""
    found: dict[str, tuple[str, bool]] = {}
    support = [path for path in files if re.search(r"(^|/)(conftest|testutils?|helpers?|utils|common)\.py$", path)]
    chosen = set(test_files(files)) | {path for path in support if re.search(r"(^|/)(tests?|testing)/|conftest", path)}
    for path in sorted(chosen):
        tree = parse(files[path].decode("utf-8", "replace"))
        if tree is None:
            continue
        for module, hard in _modules(tree.body, True):
            key = module if is_shared(module) else module.split(".")[0]
            if hard or key not in found:
                found[key] = found[key] if found.get(key, ("", False))[1] else (path, hard)
    return found


def is_own(files: Files, module: str) -> bool:
    """The tree has that module, in one of the folders that are usually on the path."""
    place = module.replace(".", "/")
    stems = [f"{root}{place}" for root in ("", "src/", "lib/", "python/")]
    return any(f"{stem}.py" in files or f"{stem}/__init__.py" in files for stem in stems)


def top_level_modules(tree: ast.Module) -> set[str]:
    """Absolute modules that a file imports at module level, outside ``try`` and ``if``."""
    return {module for module, hard in _modules(tree.body, True) if hard}


def _modules(body: list[ast.stmt], hard: bool) -> Iterator[tuple[str, bool]]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, hard) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [alias.name for alias in node.names] if is_shared(node.module) else []
            yield from ((f"{node.module}.{name}" if name else node.module, hard) for name in names or [""])
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _modules(node.body, hard and isinstance(node, ast.ClassDef))
