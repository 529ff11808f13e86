"""What of a submission may enter the grading box: regular files of declared source paths, and nothing else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from envfarm.core.task import Task

from .diffs import DiffError, FileDiff, parse, render

MAX_PATCH_BYTES = 8 << 20
MAX_FILES = 2000

_CONFIG = frozenset({
    "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "setup.py",
    "pyproject.toml", "noxfile.py", "toxfile.py", "sitecustomize.py", "usercustomize.py", ".coveragerc", "makefile",
    ".env", "pytest", "_pytest",
})  # fmt: skip
"""Names that steer an interpreter or a test runner, wherever they lie."""
_FOLDERS = frozenset({"__pycache__", "sitecustomize", "usercustomize", ".git", ".hg", "node_modules"})
_TEST_FOLDERS = frozenset({"test", "tests"})
_SUFFIXES = (".pth", ".pyc", ".pyo", ".egg-link", ".so", ".pyd")
_METADATA = (".dist-info", ".egg-info")
_TEST_FILE = re.compile(r"(test_.*|.*_test|tests)\.py")
_REGULAR = frozenset({"100644", "100755"})
_FRAMEWORK = frozenset({"pytest", "_pytest", "pluggy", "iniconfig", "packaging", "unittest", "hypothesis"})


@dataclass(frozen=True)
class Guarded:
    """A submission as it may be applied."""

    patch: str
    kept: tuple[str, ...] = ()
    dropped: dict[str, str] | None = None
    """Path -> why its change was left out; the rest is graded."""
    refused: str = ""
    """Why nothing is graded; empty when it is."""
    hostile: bool = False
    """The refusal is for something no honest ``git diff`` gives."""


def guard(patch: str, task: Task, trusted: Iterable[str] = ()) -> Guarded:
    """Sort a submission's changes into kept, dropped and refused. ``trusted``: paths of the trusted test archive."""
    if len(patch.encode("utf-8", "surrogatepass")) > MAX_PATCH_BYTES:
        return Guarded("", refused=f"The patch is larger than {MAX_PATCH_BYTES >> 20} MiB.")
    try:
        sections = parse(patch)
    except DiffError as error:  # the boundary: a subject's text that is no diff is a result, not a fault
        return Guarded("", refused=f"The patch is no unified diff: {error}.")
    if len(sections) > MAX_FILES:
        return Guarded("", refused=f"The patch touches more than {MAX_FILES} files.")
    fixed = frozenset(trusted) | frozenset(task.test_files) | frozenset(task.removed_tests)
    kept: list[FileDiff] = []
    dropped: dict[str, str] = {}
    for section in sections:
        for path in section.paths:
            if why := _escapes(path):
                return Guarded("", refused=f"The path {path!r} {why}.", hostile=True)
        reasons = {path: protected(path, task.source_paths, fixed, added=section.old is None) for path in section.paths}
        if any(reasons.values()):
            dropped |= {path: why or "part of a dropped rename" for path, why in reasons.items()}
            continue
        if not set(section.modes) <= _REGULAR:
            return Guarded("", refused=f"{section.paths[0]!r} would not be a regular file (mode {section.modes[-1]}).")
        if section.binary and not section.content:
            dropped |= dict.fromkeys(section.paths, "a binary change without its content (git diff --binary gives it)")
            continue
        kept.append(section)
    paths = tuple(dict.fromkeys(path for section in kept for path in section.paths))
    return Guarded(render(kept), paths, dropped)


def protected(path: str, source_paths: Iterable[str], fixed: Iterable[str] = (), *, added: bool = False) -> str:
    """Why a change of ``path`` is left out, or an empty string where it may pass."""
    scope = _scope(path, source_paths)
    if scope is None:
        return "outside the declared source paths"
    if path in fixed:
        return "belongs to the trusted tests"
    *folders, name = path.split("/")
    lowered = name.lower()
    inner = path.removeprefix(scope).split("/")[:-1] if scope.endswith("/") else []
    if lowered in _CONFIG or _FOLDERS & set(folders):
        return "steers the interpreter or the test runner"
    if lowered.endswith(_SUFFIXES) or any(part.endswith(_METADATA) for part in (*folders, lowered)):
        return "is not source text"
    if scope.endswith("/") and (_TEST_FOLDERS & set(inner) or _TEST_FILE.fullmatch(lowered)):
        return "is on the test side"
    top = path.removeprefix("src/").removeprefix("lib/").split("/")[0].removesuffix(".py")
    if added and top in (_FRAMEWORK | sys.stdlib_module_names):
        return "would stand in for a module of the test runner or the standard library"
    return ""


def _scope(path: str, source_paths: Iterable[str]) -> str | None:
    """The longest declared source path that holds ``path``."""
    holding = [entry for entry in source_paths if path == entry or (entry.endswith("/") and path.startswith(entry))]
    return max(holding, key=len, default=None)


def _escapes(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute"
    if ".." in parts:
        return "climbs out of the tree"
    if any(part in ("", ".") for part in parts) or "\0" in path or "\n" in path:
        return "is not in its shortest form"
    if any(part.lower().rstrip(" .") == ".git" for part in parts):
        return "lies in a git store"
    return ""
