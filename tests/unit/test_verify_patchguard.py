"""What of a submission enters the grading box."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from envfarm_verifiers.patchguard import MAX_PATCH_BYTES, guard, protected

from envfarm.core.source import IssueKind
from envfarm.core.task import Statement, Task, TaskKind

TASK = Task(
    id="o__r-1",
    kind=TaskKind.commit,
    repo="git:x",
    repo_name="r",
    base_commit="0" * 40,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    statement=Statement(text="t", source=IssueKind.commit),
    tree="",
    tests="",
    gold_patch="",
    source_paths=("src/", "single.py"),
    test_files=("src/pkg/checks.py",),
)


def added(path: str, mode: str = "100644") -> str:
    return f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,1 @@\n+x\n"


def changed(path: str) -> str:
    return f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -1,1 +1,1 @@\n-a\n+b\n"


@pytest.mark.parametrize("path", ["src/pkg/core.py", "single.py", "src/pkg/data.json", "src/pkg/contest.py"])
def test_source_passes(path):
    guarded = guard(changed(path), TASK)
    assert guarded.kept == (path,)
    assert guarded.patch == changed(path)
    assert not guarded.dropped


@pytest.mark.parametrize(
    "path",
    [
        "tests/test_a.py", "conftest.py", "src/conftest.py", "src/pkg/conftest.py", "pytest.ini", "src/pytest.ini",
        "tox.ini", "setup.cfg", "setup.py", "pyproject.toml", "src/sitecustomize.py", "src/usercustomize/__init__.py",
        "src/x.pth", "src/cheat-1.0.dist-info/entry_points.txt", "src/x.egg-info/PKG-INFO", "src/pkg/tests/test_a.py",
        "src/pkg/test_a.py", "src/pkg/a_test.py", "src/pkg/__pycache__/core.cpython-311.pyc", "src/pkg/core.so",
        "src/pkg/checks.py", "docs/index.md", "single.pyx", "srcs/a.py", ".github/workflows/a.yml",
    ],
)  # fmt: skip
def test_the_rest_is_dropped_and_recorded(path):
    guarded = guard(changed(path) + changed("src/pkg/core.py"), TASK)
    assert guarded.kept == ("src/pkg/core.py",)
    assert guarded.patch == changed("src/pkg/core.py")
    assert guarded.dropped is not None and guarded.dropped[path]


@pytest.mark.parametrize("path", ["src/pytest.py", "src/json.py", "src/_pytest/__init__.py", "src/unittest/case.py"])
def test_new_stand_ins_are_dropped_but_a_project_may_change_its_own(path):
    assert guard(added(path), TASK).kept == ()
    assert guard(changed("src/json.py"), TASK).kept == ("src/json.py",)


def test_trusted_test_files_are_dropped_wherever_they_lie():
    assert guard(changed("src/pkg/cases.py"), TASK, trusted=["src/pkg/cases.py"]).kept == ()


def test_a_test_folder_that_is_declared_source_may_change():
    task = TASK.model_copy(update={"source_paths": ("django/test/",)})
    assert protected("django/test/client.py", task.source_paths) == ""
    assert protected("django/test/tests/client.py", task.source_paths)


def test_a_rename_out_of_the_sources_is_dropped_whole():
    text = "diff --git a/src/a.py b/tests/a.py\nsimilarity index 100%\nrename from src/a.py\nrename to tests/a.py\n"
    guarded = guard(text, TASK)
    assert guarded.kept == () and set(guarded.dropped or {}) == {"src/a.py", "tests/a.py"}


@pytest.mark.parametrize(
    "path", ["../x.py", "src/../../x.py", "/etc/passwd", "src//x.py", "src/.git/config", ".git/hooks/a"]
)
def test_paths_no_git_diff_gives_are_hostile(path):
    guarded = guard(changed(path), TASK)
    assert guarded.hostile and guarded.refused and not guarded.patch


@pytest.mark.parametrize("mode", ["120000", "160000", "104755", "100666"])
def test_only_regular_files_enter(mode):
    guarded = guard(added("src/pkg/link.py", mode), TASK)
    assert "regular file" in guarded.refused and not guarded.patch
    assert guard(added("venv/link", mode), TASK).dropped == {"venv/link": "outside the declared source paths"}


def test_binary_changes_need_their_content():
    ids = f"index {'1' * 40}..{'2' * 40} 100644\n"
    head = "diff --git a/src/a.bin b/src/a.bin\n"
    data = "GIT binary patch\nliteral 4\nLcmZQzWMXDvWn*Ut\n\nliteral 0\nHcmV?d00001\n\n"
    assert guard(head + ids + data, TASK).patch == head + ids + data
    assert (
        "--binary"
        in (guard(head + "Binary files a/src/a.bin and b/src/a.bin differ\n", TASK).dropped or {})["src/a.bin"]
    )
    for broken in (head + data, head + ids + "GIT binary patch\n", head + ids + data.replace("4", "99999999999")):
        assert guard(broken, TASK).refused


def test_bombs_and_text_that_is_no_diff_are_refused():
    assert "larger" in guard("x" * (MAX_PATCH_BYTES + 1), TASK).refused
    assert "no unified diff" in guard("please pass", TASK).refused
    assert "more than" in guard("".join(added(f"src/f{n}.py") for n in range(2001)), TASK).refused


def test_an_empty_patch_is_fine():
    assert guard("", TASK).refused == ""
