"""Paths told apart by name."""

from __future__ import annotations

import pytest
from envfarm_builders.split import PathKind, classify, is_changelog, is_test_module, is_test_path, source_paths

_ROOTS = ("src/pkg/", "single.py")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("src/pkg/core.py", PathKind.source),
        ("src/pkg/data/table.json", PathKind.source),
        ("src/pkg/testing.py", PathKind.source),
        ("src/pkg/docs/page.py", PathKind.source),
        ("src/pkg/build.py", PathKind.source),
        ("src/pkg/speed_test/__init__.py", PathKind.source),
        ("single.py", PathKind.source),
        ("src/pkg/tests/test_core.py", PathKind.test),
        ("src/pkg/test_inline.py", PathKind.test),
        ("tests/data/input.txt", PathKind.test),
        ("testing/helper.py", PathKind.test),
        ("test_single.py", PathKind.test),
        ("tests/conftest.py", PathKind.runner_config),
        ("src/pkg/conftest.py", PathKind.runner_config),
        ("pyproject.toml", PathKind.runner_config),
        ("setup.cfg", PathKind.runner_config),
        ("examples/pyproject.toml", PathKind.other),
        ("setup.py", PathKind.build),
        ("uv.lock", PathKind.lock),
        ("docs/requirements.txt", PathKind.lock),
        (".github/workflows/ci.yml", PathKind.ci),
        (".pre-commit-config.yaml", PathKind.ci),
        ("CHANGES.rst", PathKind.changelog),
        ("docs/changelog.md", PathKind.changelog),
        ("newsfragments/12.bugfix.rst", PathKind.changelog),
        ("docs/index.rst", PathKind.docs),
        ("README.md", PathKind.docs),
        ("examples/run.py", PathKind.other),
    ],
)
def test_kinds(path: str, kind: PathKind) -> None:
    assert classify(path, _ROOTS) is kind


def test_test_paths_and_modules() -> None:
    assert is_test_path("toolz/tests/test_x.py") and is_test_path("pkg/tests/data.json")
    assert not is_test_path("pkg/contest.py") and not is_test_path("latest/x.py")
    assert is_test_module("tests/x_test.py") and is_test_module("pkg/tests/tests.py")
    assert not is_test_module("tests/helper.py") and not is_test_module("pkg/tests.py")


def test_changelogs() -> None:
    yes = [
        "NEWS",
        "HISTORY.md",
        "CHANGELOG",
        "docs/changes.rst",
        "docs/whats-new.rst",
        "release-notes",
        "docs/versions.rst",
    ]
    no = ["src/pkg/changes.rst", "news.py", "docs/a/b/changes.rst", "newsletter.md"]
    assert [path for path in yes + no if is_changelog(path)] == yes


@pytest.mark.parametrize(
    ("paths", "roots"),
    [
        (["src/pkg/__init__.py", "src/pkg/sub/__init__.py", "tests/__init__.py", "setup.py"], ("src/pkg/",)),
        (["pkg/__init__.py", "pkg/tests/__init__.py", "docs/conf.py", "noxfile.py"], ("pkg/",)),
        (["six.py", "test_six.py", "setup.py"], ("six.py",)),
        (["src/typing_extensions.py", "src/test_typing_extensions.py"], ("src/typing_extensions.py",)),
        (["jaraco/text/__init__.py", "jaraco/text/layouts.py", "tests/test_a.py"], ("jaraco/text/",)),
        (["space/part.py", "tests/test_part.py"], ("space/",)),
        (["toolz/__init__.py", "tlz/__init__.py", "bench/x.py", "examples/y.py"], ("tlz/", "toolz/")),
        (["README.md"], ()),
    ],
)
def test_source_paths(paths: list[str], roots: tuple[str, ...]) -> None:
    assert source_paths(paths) == roots
