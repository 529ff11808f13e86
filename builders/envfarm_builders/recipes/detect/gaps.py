"""What a tree's tests need of the tree itself and what is not in it: signs of an archive that left test files out.

Source archives often hold ``test_*.py`` and leave out the helpers and ``conftest.py`` beside them. Such a suite cannot
pass anywhere; no environment mends it.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator

from ..findings import Files
from ..names import BUILTIN_FIXTURES, FIXTURES, STDLIB, UNPUBLISHED, distribution_for
from .layout import test_files
from .setup_py import parse


def suite_gaps(files: Files) -> tuple[str, ...]:
    """Modules of the suite's own that its test files import at module level, and fixtures they use that are defined
    nowhere while there is no ``conftest.py``. Empty for a suite that looks whole."""
    modules, missing, used = _Modules(files), set[str](), set[str]()
    for path in test_files(files):
        # One at a time: the syntax trees of a large suite take gigabytes together.
        if (tree := parse(files[path].decode("utf-8", "replace"))) is not None:
            missing.update(modules.missing_from(path, tree))
            used.update(_used_fixtures(tree))
            missing.update(module for module in _plain_imports(tree) if modules.lack_helper(module))
    if not any(posixpath.basename(path) == "conftest.py" for path in files):
        unknown = used - BUILTIN_FIXTURES - set(FIXTURES)
        missing |= {f"fixture {name}" for name in (unknown - _defined_fixtures(files) if unknown else ())}
    return tuple(sorted(missing))


def _plain_imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


_HELPER = re.compile(r"^tests?_\w|_tests?(_|$)")
_CODE = (".py", ".pyi", ".pyx", ".c", ".so", ".in", ".rs")


class _Modules:
    """What can be imported from a tree."""

    def __init__(self, files: Files) -> None:
        self._stems = {
            posixpath.join(posixpath.dirname(path), posixpath.basename(path).split(".")[0])
            for path in files
            if path.endswith(_CODE)
        }
        self._folders = {folder for path in files for folder in _parents(path)}

    def missing_from(self, path: str, tree: ast.Module) -> Iterator[str]:
        """Own modules that a test file imports and that are not there."""
        folder = posixpath.dirname(path)
        root, top = ("src", folder[4:].split("/")[0]) if folder.startswith("src/") else ("", folder.split("/")[0])
        for node in tree.body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if top and alias.name.split(".")[0] == top:
                        yield from self._missing(posixpath.join(root, *alias.name.split(".")), [])
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names]
                module = node.module.split(".") if node.module else []
                if node.level:
                    base = folder
                    for _ in range(node.level - 1):
                        base = posixpath.dirname(base)
                    yield from self._missing(posixpath.join(base, *module), names)
                elif top and module[0] == top:
                    yield from self._missing(posixpath.join(root, *module), names)

    def lack_helper(self, module: str) -> bool:
        """A helper of tests by its name, that neither the tree nor any index has."""
        if module in UNPUBLISHED:
            return True
        if not _HELPER.search(module) or module in STDLIB or distribution_for(module):
            return False
        return not any(posixpath.basename(place) == module for place in (*self._stems, *self._folders))

    def _missing(self, place: str, names: list[str]) -> Iterator[str]:
        """The module at ``place`` if it is not there; where it is a folder without code, ``names`` that are not."""
        if place in self._stems:
            return
        if place not in self._folders:
            yield place.replace("/", ".")
        elif f"{place}/__init__" not in self._stems:
            for name in names:
                inside = f"{place}/{name}"
                if name != "*" and inside not in self._stems and inside not in self._folders:
                    yield inside.replace("/", ".")


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _defined_fixtures(files: Files) -> set[str]:
    """Every function, assigned or imported name of files that speak of fixtures: more than there are, never fewer."""
    found: set[bytes] = set()
    for path, data in files.items():
        if path.endswith(".py") and b"fixture" in data:
            found.update(re.findall(rb"def\s+(\w+)|^(?:from|import)[^\n#]+", data, re.MULTILINE))
            for line in re.findall(rb"^(?:from|import)\s[^\n]*(?:\([^)]*\))?|^\w+\s*=|name\s*=\s*[\"']\w+", data, re.M):
                found.update(re.findall(rb"\w+", line))
    return {name.decode("ascii", "replace") for name in found}


def _used_fixtures(tree: ast.Module) -> set[str]:
    """Arguments of plain test functions that no decorator fills."""
    found: set[str] = set()
    holders = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.bases)]
    for holder in holders:
        if isinstance(holder, ast.ClassDef) and _fills(holder.decorator_list):
            continue
        for node in holder.body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not node.name.startswith("test"):
                continue
            if not _fills(node.decorator_list):
                spare = len(node.args.args) - len(node.args.defaults)
                found.update(argument.arg for argument in node.args.args[:spare])
    return found - {"self", "cls"}


def _fills(decorators: list[ast.expr]) -> bool:
    """Anything but a bare mark may pass arguments of its own: parametrize, patch, given, ..."""
    for each in decorators:
        called = each.func if isinstance(each, ast.Call) else each
        mark = called.value if isinstance(called, ast.Attribute) else None
        if not isinstance(mark, ast.Attribute) or mark.attr != "mark" or called.attr == "parametrize":  # pyright: ignore
            return True
    return False
