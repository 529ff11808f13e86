"""Diffs: parsed strictly, rendered so that git reads what we read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from envfarm_verifiers.diffs import DiffError, parse, render
from hypothesis import given, settings
from hypothesis import strategies as st

MODIFY = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1,1 +1,1 @@\n-a\n+b\n"


def test_reads_names_modes_and_hunks():
    text = (
        "diff --git a/old name.py b/new name.py\nold mode 100644\nnew mode 100755\nsimilarity index 90%\n"
        "rename from old name.py\nrename to new name.py\n"
        'diff --git "a/\\303\\274.py" "b/\\303\\274.py"\ndeleted file mode 100644\n'
        '--- "a/\\303\\274.py"\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\\ No newline at end of file\n'
        "diff --git a/empty b/empty\nnew file mode 100644\nindex 0000000..e69de29\n"
    )
    renamed, deleted, created = parse(text)
    assert (renamed.old, renamed.new, renamed.modes) == ("old name.py", "new name.py", ("100644", "100755"))
    assert (deleted.old, deleted.new) == ("ü.py", None)
    assert (created.old, created.new, created.hunks) == (None, "empty", ())


def test_text_between_sections_is_not_passed_on():
    text = "From 0123 Mon Sep 17\n\nA subject\n" + MODIFY + "-- \n2.40\n" + MODIFY
    assert render(parse(text)) == MODIFY * 2


def test_a_bare_diff_is_taken():
    (section,) = parse("--- a/x.py\t2026-01-01\n+++ b/x.py\t2026-01-01\n@@ -1 +1 @@\n-a\n+b\n")
    assert section.paths == ("x.py",)


def test_hunk_lines_cannot_smuggle_a_section():
    inner = "diff --git a/conftest.py b/conftest.py"
    text = f"diff --git a/x.py b/x.py\nnew file mode 100644\n--- /dev/null\n+++ b/x.py\n@@ -0,0 +1,2 @@\n+{inner}\n+y\n"
    assert [section.paths for section in parse(text)] == [("x.py",)]


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        MODIFY.replace("@@ -1,1 +1,1 @@", "@@ -1,2 +1,2 @@"),
        MODIFY.replace("+++ b/x.py", "+++ b/conftest.py"),
        MODIFY.replace("--- a/x.py\n+++ b/x.py\n", ""),
        MODIFY.split("@@")[0],
        MODIFY.replace("-a\n", "?a\n"),
        MODIFY.replace("a/x.py", "x.py"),
        'diff --git "a/\\9" "b/\\9"\nnew file mode 100644\n',
        "diff --git a/x b/x\nrename from x\nrename to y\n--- a/x\n+++ b/z\n@@ -1 +1 @@\n-a\n+b\n",
    ],
)
def test_what_two_programs_could_read_differently_is_refused(text):
    try:
        sections = parse(text)
    except DiffError:
        return
    # What is left is a section without the doubtful part.
    assert render(parse(render(sections))) == render(sections)
    assert not any(section.hunks for section in sections)


NAMES = st.text("ab c.ü\"\\'\t", min_size=1, max_size=6).filter(
    lambda name: name.strip(". \t") and name == name.strip()
)
TEXTS = st.text("ab\n\r\f +-@\\\0", max_size=40)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, TEXTS, min_size=1, max_size=3), st.dictionaries(NAMES, TEXTS, min_size=1, max_size=3))
def test_git_applies_the_rendered_diff_to_the_same_tree(tmp_path_factory, old, new):
    folder = tmp_path_factory.mktemp("repo")
    git(folder, "init", "-q")
    first, second = commit(folder, old), commit(folder, new)
    text = git(folder, "diff", "--no-color", "--binary", "--full-index", first, second).decode(
        "utf-8", "surrogateescape"
    )
    again = render(parse(text))
    assert render(parse(again)) == again
    git(folder, "read-tree", first)
    if again:
        git(folder, "apply", "--cached", "--whitespace=nowarn", "-", stdin=again.encode("utf-8", "surrogateescape"))
    assert git(folder, "write-tree").decode().strip() == second


@given(st.text("diff-+@ab/\n 01,", max_size=200))
def test_any_text_parses_or_is_refused(text):
    try:
        sections = parse(text)
    except DiffError:
        return
    assert render(parse(render(sections))) == render(sections)


def commit(folder: Path, files: dict[str, str]) -> str:
    """The id of a tree with these files."""
    git(folder, "read-tree", "--empty")
    for name, text in files.items():
        blob = git(folder, "hash-object", "-w", "--stdin", stdin=text.encode()).decode().strip()
        git(folder, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    return git(folder, "write-tree").decode().strip()


def git(folder: Path, *args: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["git", *args], cwd=folder, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
