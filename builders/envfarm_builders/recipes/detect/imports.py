"""Third-party modules that the tests import, so that most missing ones are known before the first run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from packaging.utils import canonicalize_name

from ..findings import Files, Findings, Weight
from ..names import STDLIB, distribution_for
from .layout import packages, test_files
from .setup_py import parse


def read_imports(files: Files, findings: Findings) -> None:
    """Add a distribution for each hard import of a test module that nothing else has asked for yet.

    A module that the name map does not know counts only where the project's own text declares a distribution of the
    same name: an unknown module is never looked up on the index by guess.
    """
    own = packages(files)
    declared = declared_names(findings)
    for module, path in sorted(hard_imports(files).items()):
        if module in own or module in STDLIB or module.startswith("_"):
            continue
        distribution = distribution_for(module)
        if distribution is None and canonicalize_name(module) in declared:
            distribution = canonicalize_name(module)
        if distribution and canonicalize_name(distribution) not in findings.names():
            findings.want([distribution], Weight.guessed, f"import {module} in {path}")


def declared_names(findings: Findings) -> set[str]:
    """Normalised names of every distribution that the project's own files name."""
    names = findings.names()
    for requirements in findings.declared.values():
        names.update(canonicalize_name(re.split(r"[^\w.-]", line.strip())[0]) for line in requirements)
    return names


def hard_imports(files: Files) -> dict[str, str]:
    """Top-level module -> a test file that imports it at module level, outside ``try`` and ``if``."""
    found: dict[str, str] = {}
    support = [path for path in files if re.search(r"(^|/)(conftest|testutils?|helpers?|utils|common)\.py$", path)]
    chosen = set(test_files(files)) | {path for path in support if re.search(r"(^|/)(tests?|testing)/|conftest", path)}
    for path in sorted(chosen):
        tree = parse(files[path].decode("utf-8", "replace"))
        if tree is not None:
            for module in _modules(tree):
                found.setdefault(module, path)
    return found


def _modules(tree: ast.Module) -> Iterator[str]:
    guarded: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, (ast.Try, ast.If, ast.With)):
            guarded.append(node)
