"""SWE-bench rows: lossless both ways, both spellings, one sentence for a bad one; the eval script really runs."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envfarm.core.base import digest_bytes
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import ConfigError, Reason
from envfarm.core.source import IssueKind
from envfarm.core.task import Statement, Task, TaskKind
from envfarm.formats.swebench import SweBenchRow, from_task, read_rows, write_rows
from envfarm.formats.swebench_eval import eval_script

CLASSIC: dict[str, Any] = {
    "repo": "pallets/jinja",
    "instance_id": "pallets__jinja-1",
    "base_commit": "b" * 40,
    "patch": "diff --git a/x b/x\r\n+ünï\u2028\x0c\r\n",
    "test_patch": "",
    "problem_statement": "It broke 🐍",
    "hints_text": None,
    "created_at": "2026-01-02T03:04:05Z",
    "version": "3.1",
    "FAIL_TO_PASS": '["t.py::test[a b]",  "t.py::test[é]"]',
    "PASS_TO_PASS": "[]",
}
V5: dict[str, Any] = CLASSIC | {
    "FAIL_TO_PASS": ["t.py::test[a b]"],
    "PASS_TO_PASS": [],
    "eval_script": "#!/bin/bash\n",
    "image": "envfarm/x:latest",
    "log_parser": "parse_log_pytest",
    "eval_type": "pass_and_fail",
    "split": "test",
    "datasets": ["Verified"],
    "meta": {"n": 1, "x": None},
}
SUFFIXES = pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])


def round_trip(folder: Path, suffix: str, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    file = folder / f"rows{suffix}"
    assert write_rows(file, [SweBenchRow.parse(row) for row in values]) == len(values)
    assert [path.name for path in folder.iterdir()] == [file.name]
    return [row.values for row in read_rows(file)]


@SUFFIXES
@pytest.mark.parametrize("row", [CLASSIC, V5], ids=["classic", "5.x"])
def test_a_row_comes_back_exactly(tmp_path: Path, suffix: str, row: dict[str, Any]) -> None:
    (back,) = round_trip(tmp_path, suffix, [row])
    assert back == row
    assert list(back) == list(row)


@SUFFIXES
def test_both_spellings_of_a_test_list_stay_and_are_read_alike(tmp_path: Path, suffix: str) -> None:
    rows = [SweBenchRow.parse(values) for values in round_trip(tmp_path, suffix, [CLASSIC, V5])]
    assert rows[0].fail_to_pass == ("t.py::test[a b]", "t.py::test[é]")
    assert rows[1].fail_to_pass == ("t.py::test[a b]",)
    assert rows[0].values["FAIL_TO_PASS"] == CLASSIC["FAIL_TO_PASS"]
    assert rows[1].values["FAIL_TO_PASS"] == V5["FAIL_TO_PASS"]
    assert (rows[0].pass_to_pass, rows[0].runnable, rows[1].runnable) == ((), False, True)


def test_columns_that_rows_lack_stay_absent_in_json_lines_and_are_null_in_parquet(tmp_path: Path) -> None:
    assert [list(row) for row in round_trip(tmp_path, ".jsonl", [CLASSIC, V5])] == [list(CLASSIC), list(V5)]
    (tmp_path / "rows.jsonl").unlink()
    classic, v5 = round_trip(tmp_path, ".parquet", [CLASSIC, V5])
    assert v5 == V5
    assert classic == dict.fromkeys(V5) | CLASSIC


TEXT = st.text(max_size=30)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
TESTS = st.lists(TEXT, max_size=4)
ROWS = st.builds(
    lambda known, extra: extra | known,
    st.fixed_dictionaries(
        {
            name: TEXT
            for name in ("repo", "base_commit", "patch", "test_patch", "problem_statement")
        } | {"instance_id": st.text(min_size=1), "FAIL_TO_PASS": TESTS | TESTS.map(json.dumps) | st.none()},
        optional={"hints_text": TEXT | st.none(), "PASS_TO_PASS": TESTS, "created_at": TEXT | st.integers()},
    ),
    st.dictionaries(TEXT.map("x_".__add__), JSON_VALUES, max_size=3),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=3))
def test_any_rows_survive_json_lines(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    assert exact(round_trip(tmp_path_factory.mktemp("rows"), ".jsonl", rows)) == exact(rows)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=3))
def test_any_rows_survive_parquet(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    back = round_trip(tmp_path_factory.mktemp("rows"), ".parquet", rows)
    assert exact(back) == exact([{name: row.get(name) for name in columns} for row in rows])


def exact(value: Any) -> str:
    """Tells 1, 1.0 and True apart, and knows the order of keys."""
    return repr(value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "line 2, cannot be used: it is not JSON"),
        (b"\xff", "line 2, cannot be used: it is not UTF-8"),
        (b"[1]", "line 2, cannot be used: it is a list, not an object"),
        (b"null", "line 2, cannot be used: it is null, not an object"),
        (b"[" * 100_000, "line 2, cannot be used: it is not JSON (it is nested"),
        (json.dumps({**CLASSIC, "instance_id": ""}).encode(), "'instance_id' is empty"),
        (json.dumps({**CLASSIC, "patch": None}).encode(), "'patch' is null, not text"),
        (json.dumps({**CLASSIC, "version": 3.1}).encode(), "'version' is a number, not text"),
        (json.dumps({"repo": "x"}).encode(), "line 2, cannot be used: 'instance_id' is missing"),
        (json.dumps({**CLASSIC, "FAIL_TO_PASS": "['a']"}).encode(), "'FAIL_TO_PASS' is text but not a JSON list"),
        (json.dumps({**CLASSIC, "FAIL_TO_PASS": '{"a": 1}'}).encode(), "'FAIL_TO_PASS' is an object, not a list of"),
        (json.dumps({**CLASSIC, "PASS_TO_PASS": [1]}).encode(), "'PASS_TO_PASS' is a list, not a list of test ids"),
        (json.dumps({**CLASSIC, "eval_type": "x"}).encode(), "'eval_type' is 'x', not one of pass_and_fail, fail_only"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line(tmp_path: Path, line: bytes, says: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(json.dumps(CLASSIC).encode() + b"\n" + line + b"\n")
    rows = read_rows(file)
    assert next(rows).values == CLASSIC
    with pytest.raises(ConfigError) as caught:
        next(rows)
    assert says in str(caught.value)
    assert (caught.value.reason, "\n" in str(caught.value)) == (Reason.usage, False)


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_no_matter(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(CLASSIC).encode() + b"\r\n\r\n \n" + json.dumps(V5).encode())
    assert [row.values for row in read_rows(file)] == [CLASSIC, V5]


@SUFFIXES
def test_a_file_that_is_not_there_or_not_that_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows{suffix}"
    with pytest.raises(ConfigError, match="cannot be used: No such file or directory"):
        list(read_rows(file))
    file.write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        list(read_rows(file))
    assert "\n" not in str(caught.value)


@SUFFIXES
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    round_trip(tmp_path, suffix, [CLASSIC])
    bad = SweBenchRow.parse(CLASSIC | {"x": [float("nan"), {1: object()}]})
    with pytest.raises(ConfigError, match="cannot be used"):
        write_rows(tmp_path / f"rows{suffix}", [bad])
    assert [row.values for row in read_rows(tmp_path / f"rows{suffix}")] == [CLASSIC]
    assert len(list(tmp_path.iterdir())) == 1


class Folder:
    """Blobs in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        self.blobs[digest_bytes(data)] = data
        return digest_bytes(data)

    def get(self, digest: str) -> bytes:
        return self.blobs[digest]

    def has(self, digest: str) -> bool:
        return digest in self.blobs


GOLD = """diff --git a/pkg.py b/pkg.py
--- a/pkg.py
+++ b/pkg.py
@@ -1,2 +1,2 @@
 def add(a, b):
-    return a - b
+    return a + b
"""
TEST = """diff --git a/test_new file.py b/test_new file.py
new file mode 100644
--- /dev/null
+++ b/test_new file.py
@@ -0,0 +1,6 @@
+import pkg, pytest
+
+
+@pytest.mark.parametrize("x", ["$HOME `id` 'a'"])
+def test_add(x):
+    assert pkg.add(1, 2) == 3
"""


def a_task(blobs: Folder) -> Task:
    return Task(
        id="owner__pkg-1", kind=TaskKind.commit, repo="git:/x", repo_name="pkg", base_commit="b" * 40,
        created_at=datetime(2026, 1, 2, tzinfo=UTC), statement=Statement(text="broken", source=IssueKind.commit),
        tree=blobs.put(b"tree"), tests=blobs.put(b"tests"), gold_patch=blobs.put(GOLD.encode()),
        test_patch=blobs.put(TEST.encode()), source_paths=("pkg.py",), test_files=("test_new file.py",),
        fail_to_pass=("test_new file.py::test_add[$HOME `id` 'a']",), pass_to_pass=("test_old.py::test_zero",),
    )  # fmt: skip


def test_a_task_becomes_a_row_the_harness_can_run() -> None:
    blobs = Folder()
    environment = Environment(recipe_digest="r", toolchain="3.11", layers=(), built_at=datetime.now(UTC))
    row = from_task(a_task(blobs), blobs, environment, command=TestCommand(args=("-p", "no:x"), env={"TZ": "a b"}))
    assert row.runnable
    assert row.fail_to_pass == a_task(blobs).fail_to_pass
    assert row.values["patch"] == GOLD
    assert row.values["image"] == "envfarm/sweb.eval.x86_64.owner_1776_pkg-1:latest"
    assert row.values["envfarm_task"] == a_task(blobs).ref
    script = row.values["eval_script"]
    assert "TZ='a b' /env/bin/python -m pytest -rA -p no:x 'test_new file.py' test_old.py\n: '>>>>> End" in script


def test_a_diff_that_is_not_text_is_one_sentence() -> None:
    blobs = Folder()
    task = a_task(blobs).model_copy(update={"gold_patch": blobs.put(b"\xff")})
    environment = Environment(recipe_digest="r", toolchain="3.11", layers=(), built_at=datetime.now(UTC))
    with pytest.raises(ConfigError, match="Task owner__pkg-1 cannot be a SWE-bench row: its diff is not UTF-8"):
        from_task(task, blobs, environment)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_eval_script_decides_by_the_hidden_tests(tmp_path: Path, fixed: bool) -> None:
    def git(*args: str, text: str | None = None) -> None:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *args]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, input=text)

    (tmp_path / "pkg.py").write_text("def add(a, b):\n    return a - b\n")
    (tmp_path / "test_old.py").write_text("import pkg\ndef test_zero(): assert pkg.add(0, 0) == 0\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "base")
    if fixed:
        git("apply", "-", text=GOLD)
    (tmp_path / "test_new file.py").write_text("a model's own test in the way\n")
    script = eval_script(a_task(Folder()), TEST, TestCommand(), workdir=str(tmp_path), python=sys.executable)
    ran = subprocess.run(
        ["/bin/bash", "-c", script], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    between = ran.stdout.split(">>>>> Start Test Output")[1].split(">>>>> End Test Output")[0]
    status = "PASSED" if fixed else "FAILED"
    assert f"{status} test_new file.py::test_add[$HOME `id` 'a']" in between
    assert "PASSED test_old.py::test_zero" in between
