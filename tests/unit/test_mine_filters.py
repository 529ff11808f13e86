"""The static filter, rule by rule, over histories made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from envfarm_builders.filters import RULES, StaticFilter, table
from envfarm_builders.issues import default_sources
from envfarm_builders.mine import RepositoryMiner
from envfarm_builders.repos.git import GitRepository

from envfarm.core.config import BuildConfig
from envfarm.core.source import Candidate, Rejected, RejectReason

from ..repositories import GitHistory

_MESSAGE = "Fix what the function gives for a number that is negative"
_CODE = '"""Module."""\n\n\ndef double(x):\n    """Twice."""\n    return x + x\n'
_TEST = "from pkg import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
_BASE: dict[str, str | bytes | None] = {
    "pkg/__init__.py": _CODE,
    "pkg/fast.c": "int x;\n",
    "pkg/table.json": "{}",
    "tests/test_pkg.py": _TEST,
    "tests/data.txt": "1",
}
_FIXED_CODE = _CODE.replace("x + x", "2 * x")
_FIXED_TEST = _TEST + "\n\ndef test_negative():\n    assert double(-2) == -4\n"

Judge = Callable[..., Rejected | None]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Filter the one change between :data:`_BASE` (with ``base`` over it) and ``fix``."""

    def apply(
        fix: dict[str, str | None],
        message: str = _MESSAGE,
        base: dict[str, str] | None = None,
        config: BuildConfig | None = None,
    ) -> Rejected | None:
        history = GitHistory(tmp_path / "repo")
        history.commit("Start", {**_BASE, **(base or {})})
        history.commit(message, fix)
        repository = GitRepository(history.path)
        (candidate,) = RepositoryMiner().mine(repository, default_sources(), None)
        rejected = StaticFilter(config).check(repository, candidate)
        repository.close()
        return rejected

    return apply


def _good(**more: str | None) -> dict[str, str | None]:
    return {"pkg/__init__.py": _FIXED_CODE, "tests/test_pkg.py": _FIXED_TEST, **more}


def test_a_fix_with_a_test_passes(judge: Judge) -> None:
    assert judge(_good()) is None


@pytest.mark.parametrize(
    ("fix", "reason"),
    [
        ({"tests/test_pkg.py": _FIXED_TEST}, RejectReason.no_source),
        ({"pkg/__init__.py": _FIXED_CODE}, RejectReason.no_tests),
        ({"pkg/table.json": "[]", "tests/test_pkg.py": _FIXED_TEST}, RejectReason.no_python_source),
        (_good(**{"pkg/fast.c": "int y;\n"}), RejectReason.native_source),
        (_good(**{f"pkg/m{number}.py": "X = 1\n" for number in range(10)}), RejectReason.too_many_files),
        (_good(**{"pkg/big.py": "".join(f"X{n} = {n}\n" for n in range(2100))}), RejectReason.too_many_lines),
        (_good(**{"pkg/bad.py": "print 'two'\n"}), RejectReason.unreadable),
        (
            _good(**{"pkg/__init__.py": '"""Other."""\n\n\ndef double(x: int) -> int:\n    # Two\n    return x + x\n'}),
            RejectReason.no_behaviour_change,
        ),
        (_good(**{"pkg/__init__.py": '__version__ = "2"\n' + _CODE}), RejectReason.no_behaviour_change),
        (
            _good(**{"tests/test_pkg.py": _TEST.replace("    assert", "    # said anew\n    assert")}),
            RejectReason.no_new_assertions,
        ),
        (
            _good(**{"tests/test_pkg.py": None, "tests/test_moved.py": _TEST.replace("test_double", "test_it")}),
            RejectReason.no_new_assertions,
        ),
        (
            _good(
                **{
                    "tests/test_pkg.py": "import pytest, sys\n"
                    + _FIXED_TEST.replace(
                        "def test_neg", "@pytest.mark.skipif(sys.platform != 'win32', reason='')\ndef test_neg"
                    )
                }
            ),
            RejectReason.no_new_assertions,
        ),
        ({"pkg/__init__.py": _FIXED_CODE, "tests/test_pkg.py": "from pkg import double\n"
        ""}, RejectReason.no_new_assertions),
    ],
)  # fmt: skip
def test_reasons(judge: Judge, fix: dict[str, str | None], reason: RejectReason) -> None:
    rejected = judge(fix)
    assert rejected is not None and rejected.reason is reason and rejected.detail


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("#12", RejectReason.no_statement),
        ("Fix it (#12)", RejectReason.short_statement),
        ('Revert "Fix what the function gives for a number"', RejectReason.merge_or_revert),
        ("Merge branch 'stable'\n\nwith more text than anybody would ever ask for", RejectReason.merge_or_revert),
        ("Bump version to 2.0.0 for the release of the year", RejectReason.merge_or_revert),
        ("Bump requests from 2.1 to 2.2 in the requirements", RejectReason.merge_or_revert),
        ("style: run black over everything there is in here", RejectReason.merge_or_revert),
        ("Add type annotations to the whole of the package", RejectReason.merge_or_revert),
        ("Refactor the handling of numbers that are negative", RejectReason.merge_or_revert),
        ("perf: make doubling faster for large numbers only", RejectReason.merge_or_revert),
        ("Drop support for Python 3.7 and everything with it", RejectReason.merge_or_revert),
    ],
)
def test_messages(judge: Judge, message: str, reason: RejectReason) -> None:
    rejected = judge(_good(), message)
    assert rejected is not None and rejected.reason is reason


@pytest.mark.parametrize(
    "message",
    [
        "Merge pull request #3 from a/b\n\nFix what the function gives for a number",
        "Fix formatting of numbers that are negative in tables",
        "fix: release the lock when the version check has failed",
        "Add support for Python 3.13's way of writing numbers",
        "Remove the deprecated function that doubled numbers twice",
    ],
)
def test_messages_that_are_no_upkeep(judge: Judge, message: str) -> None:
    assert judge(_good(), message) is None


_NEW = _CODE + "\n\ndef triple(x, *, times=3):\n    return times * x\n"


@pytest.mark.parametrize(
    "test",
    [
        "from pkg import triple\n\n\ndef test_t():\n    assert triple(1) == 3\n",
        "import pkg.extra\n\n\ndef test_t():\n    assert pkg.triple(1) == 3\n",
        "import pkg\nimport pytest\n\n\n@pytest.mark.parametrize('f', [pkg.triple])\n"
        "def test_t(f):\n    assert f(1) == 3\n",
        "import pkg\n\nX = dict(times=3)\n\n\ndef test_t():\n    assert pkg.double(1) == 2 == X\n",
        "import pkg, pytest\n\n\n@pytest.fixture\ndef f():\n    return pkg.triple\n\n\n"
        "def test_t(f):\n    assert f(1) == 3\n",
    ],
    ids=["import", "module", "parametrize", "keyword", "fixture"],
)
def test_names_needed_before_the_body(judge: Judge, test: str) -> None:
    rejected = judge({"pkg/__init__.py": _NEW, "pkg/extra.py": "X = 1\n", "tests/test_new.py": test})
    assert rejected is not None and rejected.reason is RejectReason.tests_need_new_names


@pytest.mark.parametrize(
    "test",
    [
        "import pkg\n\n\ndef test_t():\n    assert pkg.triple(1) == 3\n",
        "def test_t():\n    from pkg import triple\n    assert triple(1) == 3\n",
        "try:\n    from pkg import triple\nexcept ImportError:\n    triple = None\n\n\n"
        "def test_t():\n    assert triple\n",
        "import pkg\nimport pytest\n\n\n@pytest.mark.parametrize('f', [lambda: pkg.triple])\n"
        "def test_t(f):\n    assert f()\n",
        "from pkg.dynamic import anything\n\n\ndef test_t():\n    assert anything\n",
        "from pkg.star import double\n\n\ndef test_t():\n    assert double(1) == 3\n",
        "from other import thing\n\n\ndef test_t():\n    assert thing\n",
    ],
    ids=["body", "late-import", "guarded", "lambda", "getattr", "star", "other-project"],
)
def test_names_that_do_no_harm(judge: Judge, test: str) -> None:
    base = {
        "pkg/dynamic.py": "def __getattr__(name):\n    return {'anything': 1}[name]\n",
        "pkg/star.py": "from . import *\nfrom pkg import *\n",
    }
    assert judge({"pkg/__init__.py": _NEW, "tests/test_new.py": test}, base=base) is None


def test_a_conftest_that_needs_the_fix_breaks_every_test(judge: Judge) -> None:
    rejected = judge(_good(**{"pkg/__init__.py": _NEW, "tests/conftest.py": "from pkg import triple\n"}))
    assert rejected is not None and rejected.reason is RejectReason.tests_need_new_names
    assert "pkg.triple" in rejected.detail


def test_a_changed_helper_changes_its_tests(judge: Judge) -> None:
    base = _TEST.replace("== 4", "== CASES[2]").replace("\n\n\ndef", "\n\nCASES = {2: 4}\n\n\ndef")
    fix = base.replace("{2: 4}", "{2: 4, -2: -4}")
    assert judge({"pkg/__init__.py": _FIXED_CODE, "tests/test_pkg.py": fix}, base={"tests/test_pkg.py": base}) is None


def test_changed_test_data_counts(judge: Judge) -> None:
    assert judge({"pkg/__init__.py": _FIXED_CODE, "tests/data.txt": "2"}) is None


def test_test_data_in_a_submodule_cannot_be_had(judge: Judge) -> None:
    modules = '[submodule "cases"]\n\tpath = tests/cases\n\turl = https://h.invalid/cases\n'
    rejected = judge(_good(), base={".gitmodules": modules})
    assert rejected is not None and rejected.reason is RejectReason.unreadable and "tests/cases" in rejected.detail


def test_limits_come_from_the_configuration(judge: Judge) -> None:
    rejected = judge(_good(), config=BuildConfig(min_statement_chars=500))
    assert rejected is not None and rejected.reason is RejectReason.short_statement
    assert "more than 3 source files" in table(BuildConfig(max_source_files=3)).lower()


def test_the_same_patch_again_is_a_duplicate(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "repo")
    history.commit("Start", _BASE)
    history.commit(_MESSAGE, _good())
    history.commit("Take the fix back, for it was not asked for", _BASE)
    history.commit(_MESSAGE, _good())
    repository = GitRepository(history.path)
    judged = StaticFilter()
    candidates = list(RepositoryMiner().mine(repository, default_sources(), None))
    verdicts = {candidate.fix_commit: judged.check(repository, candidate) for candidate in candidates}
    repository.close()
    reasons = [verdict.reason if verdict else None for verdict in verdicts.values()]
    assert reasons == [None, RejectReason.no_new_assertions, RejectReason.duplicate]


def test_a_damaged_object_costs_its_candidate_only(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "repo")
    history.commit("Start", _BASE)
    history.commit(_MESSAGE, _good())
    repository = GitRepository(history.path)
    candidates: list[Candidate] = list(RepositoryMiner().mine(repository, default_sources(), None))
    repository.close()
    blob = history.git("rev-parse", "HEAD:pkg/__init__.py")
    (history.path / ".git/objects" / blob[:2] / blob[2:]).unlink()
    again = GitRepository(history.path)
    rejected = StaticFilter().check(again, candidates[0])
    again.close()
    assert rejected is not None and rejected.reason is RejectReason.unreadable


def test_the_published_table_is_the_list_of_rules() -> None:
    published = (Path(__file__).parents[2] / "docs/filters.md").read_text(encoding="utf-8")
    assert table() in published, "docs/filters.md is stale: see the comment above its table"
    assert {rule.reason for rule in RULES} | {RejectReason.duplicate} == set(RejectReason)
