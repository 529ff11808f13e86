"""Third-party modules that the tests import, so that most missing ones are known before the first run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from packaging.utils import canonicalize_name

from ..findings import Files, Findings, Weight, name_of
from ..names import STDLIB, distribution_for, is_shared
from .layout import packages, test_files
from .setup_py import parse


def read_imports(files: Files, findings: Findings) -> None:
    """Add a distribution for each hard import of a test module that nothing else has asked for yet.

    A module that the name map does not know counts only where the project's own text declares a distribution of the
    same name: an unknown module is never looked up on the index by guess.
    """
    own = packages(files)
    declared = declared_names(findings)
    wanted = findings.names()
    for module, path in sorted(hard_imports(files).items()):
        top = module.split(".")[0]
        if top in own and not is_shared(module):
            continue
        if top in STDLIB or top.startswith("_") or is_own(files, module):
            continue
        distribution = distribution_for(module)
        if distribution is None and canonicalize_name(module) in declared:
            distribution = canonicalize_name(module)
        if distribution and name_of(distribution) not in wanted:
            wanted.add(name_of(distribution))
            findings.want([distribution], Weight.guessed, f"import {module} in {path}")


def declared_names(findings: Findings) -> set[str]:
    """Normalised names of every distribution that the project's own files name."""
    names = findings.names()
    for requirements in findings.declared.values():
        names.update(canonicalize_name(re.split(r"[^\w.-]", line.strip())[0]) for line in requirements)
    return names


def hard_imports(files: Files) -> dict[str, str]:
    """Module -> a test file that imports it outside ``try`` and ``if``. Top-level names, but of shared namespaces the
    whole dotted name."""
    found: dict[str, str] = {}
    support = [path for path in files if re.search(r"(^|/)(conftest|testutils?|helpers?|utils|common)\.py$", path)]
    chosen = set(test_files(files)) | {path for path in support if re.search(r"(^|/)(tests?|testing)/|conftest", path)}
    for path in sorted(chosen):
        tree = parse(files[path].decode("utf-8", "replace"))
        if tree is not None:
            for module in _modules(tree.body):
                found.setdefault(module if is_shared(module) else module.split(".")[0], path)
    return found


def is_own(files: Files, module: str) -> bool:
    """The tree has that module, in one of the folders that are usually on the path."""
    place = module.replace(".", "/")
    stems = [f"{root}{place}" for root in ("", "src/", "lib/", "python/")]
    return any(f"{stem}.py" in files or f"{stem}/__init__.py" in files for stem in stems)


def _modules(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module
            if is_shared(node.module) and "." not in node.module:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _modules(node.body)
