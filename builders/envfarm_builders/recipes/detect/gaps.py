"""What a tree's tests need of the tree itself and what is not in it: signs of an archive that left test files out.

Source archives often hold ``test_*.py`` and leave out the helpers and ``conftest.py`` beside them. Such a suite cannot
pass anywhere; no environment mends it.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator

from ..findings import Files
from ..names import BUILTIN_FIXTURES, FIXTURES, UNPUBLISHED
from .imports import hard_imports
from .layout import test_files
from .setup_py import parse


def suite_gaps(files: Files) -> tuple[str, ...]:
    """Modules of the suite's own that its test files import at module level, and fixtures they use that are defined
    nowhere while there is no ``conftest.py``. Empty for a suite that looks whole."""
    trees = {path: tree for path in test_files(files) if (tree := parse(files[path].decode("utf-8", "replace")))}
    missing = {name for path, tree in trees.items() for name in _missing_modules(files, path, tree)}
    missing |= {module for module in hard_imports(files) if module in UNPUBLISHED}
    if not any(posixpath.basename(path) == "conftest.py" for path in files):
        known = BUILTIN_FIXTURES | set(FIXTURES) | _defined_fixtures(files)
        for path, tree in trees.items():
            missing.update(f"fixture {name}" for name in _used_fixtures(tree) - known if path)
    return tuple(sorted(missing))


def _missing_modules(files: Files, path: str, tree: ast.Module) -> Iterator[str]:
    folder = posixpath.dirname(path)
    root, top = ("src", folder[4:].split("/")[0]) if folder.startswith("src/") else ("", folder.split("/")[0])
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if top and alias.name.split(".")[0] == top:
                    yield from _missing(files, posixpath.join(root, *alias.name.split(".")), [])
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                base = folder
                for _ in range(node.level - 1):
                    base = posixpath.dirname(base)
                yield from _missing(files, posixpath.join(base, *module), names)
            elif top and module[0] == top:
                yield from _missing(files, posixpath.join(root, *module), names)


def _missing(files: Files, place: str, names: list[str]) -> Iterator[str]:
    """The module at ``place`` if it is not there; where it is a folder without code, those ``names`` that are not."""
    if not _module_exists(files, place):
        yield place.replace("/", ".")
    elif f"{place}.py" not in files and not any(path.startswith(f"{place}/__init__.") for path in files):
        missing = (name for name in names if name != "*" and not _module_exists(files, f"{place}/{name}"))
        yield from (f"{place}.{name}".replace("/", ".") for name in missing)


def _module_exists(files: Files, place: str) -> bool:
    """A module, a package, a namespace folder or something compiled lies there, or a name of its parent may be it."""
    if f"{place}.py" in files or f"{place}.pyi" in files or any(path.startswith(place + "/") for path in files):
        return True
    stem = place + "."
    return any(path.startswith(stem) and path.endswith((".pyx", ".c", ".so", ".in", ".rs")) for path in files)


def _defined_fixtures(files: Files) -> set[str]:
    found: set[str] = set()
    for path, data in files.items():
        if path.endswith(".py") and b"fixture" in data and (tree := parse(data.decode("utf-8", "replace"))):
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Import, ast.ImportFrom)):
                    found.update(_names(node))
                elif isinstance(node, ast.Assign):
                    found.update(target.id for target in node.targets if isinstance(target, ast.Name))
                elif isinstance(node, ast.keyword) and node.arg == "name" and isinstance(node.value, ast.Constant):
                    found.add(str(node.value.value))
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    return [node.name] if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else []


def _used_fixtures(tree: ast.Module) -> set[str]:
    """Arguments of plain test functions that no decorator fills."""
    found: set[str] = set()
    holders = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.bases)]
    for holder in holders:
        marked = _fills(holder)
        for node in holder.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
                if marked or _fills(node):
                    continue
                spare = len(node.args.args) - len(node.args.defaults)
                found.update(argument.arg for argument in node.args.args[:spare])
    return found - {"self", "cls"}


def _fills(node: ast.AST) -> bool:
    """Anything but a bare mark may pass arguments of its own: parametrize, patch, given, ..."""
    decorators = getattr(node, "decorator_list", [])
    return any("parametrize" in ast.unparse(each) or "pytest.mark" not in ast.unparse(each) for each in decorators)
