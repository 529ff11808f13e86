"""What can be known of a candidate without running it: both states of every changed file, read once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from envfarm.core.ports import Repository
from envfarm.core.source import Candidate, FileChange

from . import pycode
from .modules import ModuleMap
from .mine import tree_paths
from .patches import source_diff
from .split import is_test_module, is_test_path, is_version_file, source_paths, within
from .statement import statement_text

_SKIPPED = re.compile(
    r"(?:^|\.)skip\b|(?:^|\.)skip\(|skipif\(\s*(?:not (?:\w+\.)*(?:is_)?(?:win|windows|mac|macos|darwin|osx|pypy|jython)\w*\b|"
    r"[^)]*(?:platform|name|system\(\))\s*!=\s*['\"](?:win32|nt|windows|darwin|java|pypy)|[^)]*not .*startswith\(['\"](?:win|darwin))"
    r"|skipUnless\([^)]*(?:win32|'nt'|\"nt\"|darwin|windows)|xfail\b",
    re.IGNORECASE,
)
_COMMON = frozenset(
    "self cls None True False len str int list dict set tuple bool float bytes object type isinstance super range zip "
    "print repr getattr setattr hasattr args kwargs name value key keys values items get pop append extend join split "
    "format strip open read write close data result results expected actual assert_ pytest raises parametrize mark fixture "
    "mock patch ValueError TypeError KeyError AttributeError Exception RuntimeError x y i j k v n s f e a b c obj item "
    "test tests assertEqual assertTrue assertFalse assertRaises assertIn match tmp_path monkeypatch msg message text "
    "re os sys io path update copy sorted sum min max any all next iter enumerate map filter property staticmethod "
    "classmethod abs hash id input output line lines func function default index count".split()
)


class Evidence:
    """Lazy: a rule that decides early costs nothing that it does not look at."""

    def __init__(self, repository: Repository, candidate: Candidate) -> None:
        self.repository = repository
        self.candidate = candidate

    @cached_property
    def message(self) -> str:
        """The issue's title, or the first line of its text: what the change says it is about."""
        return self.candidate.issue.title or statement_text(self.candidate.issue)

    def source_diff(self) -> str:
        return source_diff(self.repository, self.candidate)

    @cached_property
    def _changes(self) -> dict[str, FileChange]:
        return {change.path: change for change in self.candidate.changes}

    def _states(self, path: str) -> tuple[bytes | None, bytes | None]:
        change = self._changes[path]
        base = None if change.status == "A" else self.repository.read(self.candidate.base_commit, change.old_path or path)
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
    def _changed_tests(self) -> dict[str, tuple[pycode.TestModule, list[pycode.TestFunction]]]:
        """Test module path -> its fixed state and the tests in it that are new or different and run on Linux."""
        before: list[pycode.TestFunction] = []
        after: dict[str, pycode.TestModule] = {}
        for path, (base, fix) in self._tests.items():
            if not is_test_module(path):
                continue
            if base is not None and (old := pycode.test_module(base, _package(path))):
                before += old.tests
            if fix is not None and (new := pycode.test_module(fix, _package(path))):
                after[path] = new
        old_texts = {test.text for test in before}
        new_texts = {test.text for module in after.values() for test in module.tests}
        old_meanings = {test.meaning for test in before if test.text not in new_texts}
        found: dict[str, tuple[pycode.TestModule, list[pycode.TestFunction]]] = {}
        for path, module in after.items():
            changed = [
                test for test in module.tests if test.text not in old_texts and test.meaning not in old_meanings
            ]
            if changed:
                found[path] = (module, changed)
        return found

    def no_new_assertions(self) -> str | None:
        if not self._changed_tests:
            if any(not path.endswith(".py") for path in self.candidate.test_files) and not self._tests:
                return None  # data that unchanged tests read
            return "no test function is new or different"
        running = [test for _, tests in self._changed_tests.values() for test in tests if not _skipped(test)]
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
    def _able(self) -> list[pycode.TestFunction]:
        """Changed tests that can reach their own body at base."""
        able: list[pycode.TestFunction] = []
        for module, tests in self._changed_tests.values():
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
        first = next(iter(self._changed_tests))
        return f"{first} cannot be imported or set up at base"

    def tests_miss_change(self) -> str | None:
        """Whether no changed test can touch what changed, going by names."""
        if not self._changed_tests:
            return None
        return None


def _skipped(test: pycode.TestFunction) -> bool:
    return bool(_SKIPPED.search(test.decorators))


def _package(path: str) -> str:
    return ".".join(path.split("/")[:-1])


def _is_sample(path: str) -> bool:
    """Whether a test-side file is data that happens to be Python: a linter's or a parser's input."""
    return not is_test_module(path) and not path.endswith("conftest.py") and is_test_path(path)
