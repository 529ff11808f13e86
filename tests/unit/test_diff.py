"""The diff we write is one that git applies, to the byte."""

import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from envfarm.core.diff import git_diff

text = st.text(alphabet=st.sampled_from("ab \t\r\n-+@\\é"), max_size=60)
files = st.dictionaries(st.sampled_from(["a.py", "pkg/b.py", "pkg/c d.py", "x/y/z.txt"]), text, max_size=4)


def apply(folder: Path, before: dict[str, bytes], patch: str) -> dict[str, bytes]:
    for path, data in before.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if patch:
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(command, input=patch.encode(), cwd=folder, check=True, capture_output=True)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@settings(max_examples=60, deadline=None)
@given(files, files)
def test_git_applies_the_diff_to_the_byte(tmp_path_factory, before, after):
    # git has no form for "an empty file appears" in a patch without an index line, so empty files stay out
    old = {path: value.encode() for path, value in before.items() if value}
    new = {path: value.encode() for path, value in after.items() if value}
    assert apply(tmp_path_factory.mktemp("tree"), old, git_diff(old, new)) == new


def test_equal_trees_give_an_empty_patch():
    assert git_diff({"a": b"1\n"}, {"a": b"1\n"}) == ""


def test_binary_content_is_left_out():
    assert git_diff({}, {"a.bin": b"\0\1", "b.py": b"x = 1\n"}).startswith("diff --git a/b.py b/b.py\nnew file")
