"""Where a test is written: in its own class, or in one that it inherits from, in its own file or another."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from envfarm.core.archive import File
from envfarm.core.errors import BuilderError
from envfarm_builders.split import is_test_path

from .hide import classes, definitions, parse_tests


class Place(NamedTuple):
    """A function or method in a file."""

    path: str
    names: tuple[str, ...]
    """Enclosing classes, then the function."""


def place_of(test_id: str) -> Place:
    """``a.py::C::t[x]`` -> ``a.py``, (``C``, ``t``): every parameter belongs to its function."""
    path, *names = test_id.split("[", 1)[0].split("::")
    return Place(path, tuple(names))


def locate(files: Mapping[str, File], test_id: str) -> Place | None:
    """Where the test is written among the test files of a tree.

    None for tests that are generated, inherited from something that is no test file, or in a file that is no UTF-8
    Python.
    """
    return _locate(files, place_of(test_id), set())


def _locate(files: Mapping[str, File], place: Place, seen: set[Place]) -> Place | None:
    if place in seen or (tree := _parsed(files, place.path)) is None or not place.names:
        return None
    seen.add(place)
    if definitions(tree, place.names):
        return place
    for candidate in _elsewhere(files, place, tree):
        if found := _locate(files, candidate, seen):
            return found
    return None


def _elsewhere(files: Mapping[str, File], place: Place, tree: ast.Module) -> Iterator[Place]:
    """Where a test may be written that a file does not define itself: in a base class, or in what it imports."""
    first, *rest = place.names
    for home in _imported(files, place.path, tree, first):
        yield Place(home.path, (*home.names, *rest))
    *outer, name = place.names
    for node in classes(tree, outer):
        for base in node.bases:
            if isinstance(base, ast.Name):
                yield Place(place.path, (base.id, name))


def _imported(files: Mapping[str, File], path: str, tree: ast.Module, name: str) -> Iterator[Place]:
    """Where something that a file imports as ``name`` may be written."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) in (name, "*"):
                for module in _modules(files, path, node):
                    yield Place(module, (name if alias.name == "*" else alias.name,))


def _modules(files: Mapping[str, File], path: str, node: ast.ImportFrom) -> list[str]:
    """Test files that an import may mean: by the folder for relative ones, by the end of the path for others."""
    parts = node.module.split(".") if node.module else []
    if node.level:
        folder = path.split("/")[: -node.level]
        ends = ["/".join([*folder, *parts])]
        return [each for end in ends for each in (f"{end}.py", f"{end}/__init__.py") if each in files]
    tail = "/".join(parts)
    return sorted(
        each
        for each in files
        if is_test_path(each) and (f"/{each}".endswith(f"/{tail}.py") or f"/{each}".endswith(f"/{tail}/__init__.py"))
    )


def _parsed(files: Mapping[str, File], path: str) -> ast.Module | None:
    file = files.get(path)
    if file is None or file.link is not None or not path.endswith(".py") or not is_test_path(path):
        return None
    try:
        return parse_tests(file.data.decode("utf-8"))
    except (BuilderError, UnicodeDecodeError):
        return None  # the boundary to subjects' files: nothing can be found in what cannot be read
