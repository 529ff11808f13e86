"""What can be known of a candidate without running it: both states of every changed file, read once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from envfarm.core.ports import Repository
from envfarm.core.source import Candidate, FileChange

from . import pycode
from .mine import tree_paths
from .modules import ModuleMap
from .patches import source_diff
from .split import is_test_module, is_test_path, is_version_file, source_paths, within
from .testcode import TestFunction, TestModule, changed_tests, read_tests

_SUBMODULE = re.compile(r"^\s*path\s*=\s*(\S+)", re.MULTILINE)
_ELSEWHERE = r"(?:is_|on_)?(?:win|windows|win32|nt|mac|macos|darwin|osx|pypy|jython|java)"
_SKIPPED = re.compile(
    r"\b(?:skip|xfail)\b"  # always; an expected failure never counts as a pass
    rf"|skipif\(\s*not (?:\w+\.)*{_ELSEWHERE}\w*\b"
    rf"|skipif\([^)]*(?:platform|name|system\(\)|implementation\S*)\s*!=\s*['\"]{_ELSEWHERE}"
    rf"|skipif\([^)]*not [^)]*startswith\(['\"]{_ELSEWHERE}"
    rf"|skipUnless\([^)]*{_ELSEWHERE}\w*\b",
    re.IGNORECASE,
)
"""Decorators of tests that do not run under CPython on Linux."""


class Evidence:
    """Lazy: a rule that decides early costs nothing that it does not look at."""

    def __init__(self, repository: Repository, candidate: Candidate) -> None:
        self.repository = repository
        self.candidate = candidate

    @cached_property
    def message(self) -> str:
        """What the change says it is about: the miner sees to it that upkeep is announced in the title."""
        return self.candidate.issue.title

    def source_diff(self) -> str:
        return source_diff(self.repository, self.candidate)

    @cached_property
    def _changes(self) -> dict[str, FileChange]:
        return {change.path: change for change in self.candidate.changes}

    def _states(self, path: str) -> tuple[bytes | None, bytes | None]:
        change = self._changes[path]
        base = (
            None if change.status == "A" else self.repository.read(self.candidate.base_commit, change.old_path or path)
        )
        fix = None if change.status == "D" else self.repository.read(self.candidate.fix_commit, path)
        return base, fix

    @cached_property
    def _source(self) -> dict[str, tuple[bytes | None, bytes | None]]:
        return {path: self._states(path) for path in self.candidate.source_files if path.endswith(".py")}

    @cached_property
    def _tests(self) -> dict[str, tuple[bytes | None, bytes | None]]:
        return {path: self._states(path) for path in self.candidate.test_files if path.endswith(".py")}

    def unparsable(self) -> str | None:
        """The first changed Python file whose fixed state is not Python 3."""
        for path, (_, fix) in [*self._source.items(), *self._tests.items()]:
            if fix is not None and pycode.parse(fix) is None and not _is_sample(path):
                return path
        return None

    def test_submodule(self) -> str | None:
        """The first submodule on the test side of the fixed tree."""
        modules = self.repository.read(self.candidate.fix_commit, ".gitmodules") or b""
        for path in _SUBMODULE.findall(modules.decode("utf-8", "replace")):
            if is_test_path(f"{path}/data"):
                return path
        return None

    def behaviour_changes(self) -> bool:
        """Whether any source file does something else than before."""
        for path in self.candidate.source_files:
            if path not in self._source:
                if not path.endswith((".pyi", ".md", ".rst", ".txt", "py.typed", ".po", ".mo", ".pot")):
                    return True
                continue
            base, fix = self._source[path]
            if is_version_file(path) and base and fix and max(len(base), len(fix)) < 4000:
                continue
            if pycode.behaves_differently(base or b"", fix or b""):
                return True
        return False

    @cached_property
    def _changed_tests(self) -> list[tuple[TestModule, list[TestFunction]]]:
        """Test modules in their fixed state, with the tests in them that are new or different."""
        modules = {path: states for path, states in self._tests.items() if is_test_module(path)}
        before = [read_tests(base, _package(path)) for path, (base, _) in modules.items()]
        after = [read_tests(fix, _package(path)) for path, (_, fix) in modules.items()]
        return changed_tests([old for old in before if old], [new for new in after if new])

    def no_new_assertions(self) -> str | None:
        if not self._changed_tests:
            if any(not path.endswith(".py") for path in self.candidate.test_files) and not self._tests:
                return None  # data that unchanged tests read
            return "no test function is new or different"
        running = [test for _, tests in self._changed_tests for test in tests if not _skipped(test)]
        return None if running else "the changed tests are skipped here"

    @cached_property
    def _roots(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (
            source_paths(tree_paths(self.repository, self.candidate.base_commit)),
            source_paths(tree_paths(self.repository, self.candidate.fix_commit)),
        )

    @cached_property
    def _added_names(self) -> frozenset[str]:
        """Identifiers that a changed source file holds now and did not hold before."""
        states = [(base or b"", fix) for base, fix in self._source.values() if fix is not None]
        return frozenset().union(*(pycode.new_names(base, fix) for base, fix in states))

    def _new_among(self, names: set[str] | frozenset[str]) -> set[str]:
        """Those of ``names`` that the fixed product holds and no source file of the base's product does."""
        left = set(names & self._added_names)
        for path in tree_paths(self.repository, self.candidate.base_commit) if left else ():
            if path.endswith(".py") and within(path, self._roots[0]):
                left -= pycode.words(self.repository.read(self.candidate.base_commit, path) or b"")
                if not left:
                    break
        return left

    @cached_property
    def _maps(self) -> tuple[ModuleMap, ModuleMap]:
        base, fix = self.candidate.base_commit, self.candidate.fix_commit
        return ModuleMap(self.repository, base, self._roots[0]), ModuleMap(self.repository, fix, self._roots[1])

    def _missing_import(self, imports: Iterable[tuple[str, str]]) -> str | None:
        """The first import that only the fix satisfies."""
        base, fix = self._maps
        for module, name in imports:
            if fix.has(module, name) and not base.has(module, name):
                return f"{module}.{name}".rstrip(".")
        return None

    @cached_property
    def _able(self) -> list[TestFunction]:
        """Changed tests that can reach their own body at base."""
        able: list[TestFunction] = []
        for module, tests in self._changed_tests:
            if self._missing_import(module.imports) or self._new_among(module.import_time):
                continue
            able += [test for test in tests if not _skipped(test) and not self._new_among(test.fixtures)]
        return able

    def needs_new_names(self) -> str | None:
        if not self._changed_tests:
            return None
        for path in (change.path for change in self.candidate.changes if change.path.endswith("conftest.py")):
            tree = pycode.parse(self.repository.read(self.candidate.fix_commit, path) or b"")
            if tree and (missing := self._missing_import(pycode.module_imports(tree, _package(path)))):
                return f"{path} needs {missing}"
        if self._able:
            return None
        return "what tests change cannot be imported or set up at base"


def _skipped(test: TestFunction) -> bool:
    return bool(_SKIPPED.search(test.decorators))


def _package(path: str) -> str:
    return ".".join(path.split("/")[:-1])


def _is_sample(path: str) -> bool:
    """Whether a test-side file is data that happens to be Python: a linter's or a parser's input."""
    return not is_test_module(path) and not path.endswith("conftest.py") and is_test_path(path)
