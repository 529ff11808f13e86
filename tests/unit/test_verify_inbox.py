"""The in-box runner, started as a box starts it but on this machine, on trees of our own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from envfarm_verifiers.launch import launch
from envfarm_verifiers.report import RunRecord, read_run
from uv import find_uv_bin

from envfarm.core.box import ExecResult
from envfarm.core.environment import Environment, InstallMode, TestCommand
from envfarm.core.verdict import RunOutcome, TestStatus

TESTS = """\
import pytest
import unittest
from toy import add

def test_ok(): assert add(1, 2) == 3
def test_bad(): assert add(4, 5) == 9
@pytest.mark.parametrize("x", ["a b", "ü::[x]", "\\udc80", "\\x00"])
def test_param(x): assert x
@pytest.fixture
def broken(): raise ValueError("no\\ud800\\x00")
def test_setup(broken): pass
@pytest.fixture
def leaky():
    yield
    raise ValueError("late")
def test_teardown(leaky): pass
def test_skip(): pytest.skip("x")
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_xpass_strict(): pass
class TestU(unittest.TestCase):
    def test_u(self): self.assertEqual(add(1, 1), 3)
    @unittest.expectedFailure
    def test_expected(self): self.fail()
    def test_sub(self):
        for i in range(3):
            with self.subTest(i=i): self.assertEqual(i, 1)
"""
SOURCE = "def add(a, b):\n    if a > 3:\n        return 5\n    return a + b\n"


def tree(folder: Path, **files: str) -> Path:
    named = {"src/toy/__init__.py": SOURCE, "tests/test_a.py": TESTS} | {
        name.replace("__", "/").replace("_py", ".py").replace("_ini", ".ini"): text for name, text in files.items()
    }
    for name, text in named.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def run(root: Path, command: TestCommand | None = None, mode: InstallMode = InstallMode.none, **options) -> RunRecord:
    environment = Environment(
        recipe_digest="x", toolchain="3", layers=(), install_mode=mode, built_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    start = launch(
        environment,
        command or TestCommand(),
        root=str(root),
        scratch=str(root),
        **({"interpreter": sys.executable} | options),
    )
    read, write = os.pipe()
    env = {"PATH": "/usr/bin:/bin", **start.env}
    with subprocess.Popen(
        start.argv,
        stdin=-1,
        stdout=-1,
        stderr=-1,
        cwd="/",
        env=env,
        pass_fds=[3],
        preexec_fn=lambda: os.dup2(write, 3),
    ) as process:
        os.close(write)
        chunks: list[bytes] = []
        with os.fdopen(read, "rb") as pipe:
            reader = threading.Thread(target=lambda: chunks.append(pipe.read()))
            reader.start()
            try:
                out, err = process.communicate(start.stdin, timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            reader.join()
    code = process.returncode
    result = ExecResult(
        exit_code=code if code >= 0 else None, signal=-code if code < 0 else None, stdout=out, stderr=err,
        report=b"".join(chunks),
    )  # fmt: skip
    return read_run(result, start.key, root=str(root))


def test_every_status_with_lossless_ids(tmp_path):
    seen = run(tree(tmp_path))
    statuses = {name.removeprefix("tests/test_a.py::"): str(status) for name, status in seen.report.statuses.items()}
    assert statuses == {
        "test_ok": "passed",
        "test_bad": "failed",
        "test_param[a b]": "passed",
        "test_param[\\xfc::[x]]": "passed",
        "test_param[\\udc80]": "passed",
        "test_param[\\x00]": "passed",
        "test_setup": "error",
        "test_teardown": "error",
        "test_skip": "skipped",
        "test_xfail": "xfailed",
        "test_xpass": "xpassed",
        "test_xpass_strict": "failed",
        "TestU::test_u": "failed",
        "TestU::test_expected": "xfailed",
        "TestU::test_sub": "failed",
    }
    assert seen.report.outcome is RunOutcome.finished and seen.closed and seen.report.exit_code == 1
    assert seen.report.messages["tests/test_a.py::test_bad"].startswith("assert 5 == 9")
    assert seen.report.messages["tests/test_a.py::test_setup"] == "ValueError: no\\ud800\\x00"
    assert "tests/test_a.py::test_ok" not in seen.raised and "tests/test_a.py::test_bad" in seen.raised


def test_a_projects_settings_are_kept_but_never_stop_or_thin_out_the_run(tmp_path):
    settings = "[pytest]\naddopts = -x --ff --strict-markers -p no:doctest\nmarkers = special\n"
    root = tree(
        tmp_path, pytest_ini=settings, tests__test_b_py="import nothing\n", tests__test_c_py="def test_c(): pass\n"
    )
    report = run(root).report
    assert report.collection_errors == {"tests/test_b.py": "ModuleNotFoundError: No module named 'nothing'"}
    assert report.statuses["tests/test_c.py::test_c"] is TestStatus.passed and len(report.statuses) == 16


def test_selection_by_file_and_id_and_what_is_gone(tmp_path):
    root = tree(tmp_path, tests__test_c_py="def test_c(): pass\ndef test_d(): pass\n")
    only = ["tests/test_a.py::test_ok", "tests/test_a.py::gone", "tests/gone.py", "tests/test_c.py"]
    assert list(run(root, only=only).report.statuses) == [
        "tests/test_a.py::test_ok", "tests/test_c.py::test_c", "tests/test_c.py::test_d",
    ]  # fmt: skip
    assert run(root, only=["tests/gone.py"]).report.outcome is RunOutcome.no_tests


def test_lines_run_by_each_test(tmp_path):
    report = run(tree(tmp_path), trace=["src/"], only=["tests/test_a.py::test_ok", "tests/test_a.py::test_bad"]).report
    ok, bad = "tests/test_a.py::test_ok", "tests/test_a.py::test_bad"
    lines = report.coverage["src/toy/__init__.py"]
    assert (lines[3], lines[4]) == ((bad,), (ok,)) and set(lines[2]) == {ok, bad} and 1 not in lines


def test_the_tree_cannot_answer_for_what_pytest_imports(tmp_path):
    stand_in = "print('taken over')\nimport os\nos._exit(0)\n"
    names = ("argcomplete", "colorama", "pytest", "json", "sitecustomize", "hmac")
    root = tree(
        tmp_path, **{f"src__{name}_py": stand_in for name in names}, **{f"{name}_py": stand_in for name in names}
    )
    seen = run(root, TestCommand(env={"PYTHONPATH": "src"}), trusted={})
    assert seen.report.outcome is RunOutcome.finished and len(seen.report.statuses) == 15


def test_a_regular_install_is_tested_from_the_tree(tmp_path):
    root = tree(tmp_path, src__fsspec_py="HERE = True\n")
    (root / "tests/test_a.py").write_text("import fsspec\ndef test_here(): assert fsspec.HERE\n")
    statuses = run(root, mode=InstallMode.regular).report.statuses
    assert statuses == {"tests/test_a.py::test_here": TestStatus.passed}


def test_processes_that_tests_fork_or_start_do_not_report(tmp_path):
    root = tree(tmp_path)
    (root / "tests/test_a.py").write_text(
        "import os, subprocess, sys\n"
        "def test_fork():\n    if os.fork() == 0:\n        raise SystemExit(0)\n    os.wait()\n"
        "def test_child():\n    subprocess.run([sys.executable, '-c', 'import toy'], check=True)\n"
    )
    seen = run(root)
    assert len(seen.report.statuses) == 2 and not seen.forged and not seen.report.duplicates and seen.closed


def test_altered_machinery_files_and_tripwires_are_told(tmp_path):
    root = tree(tmp_path)
    (root / "tests/test_a.py").write_text(
        "import gc, _pytest.runner, unittest, builtins\n"
        "def test_a():\n    gc.get_objects()\n    _pytest.runner.call_and_report = None\n"
        "    unittest.TestCase.assertEqual = lambda *a: None\n    builtins.abs = lambda x: 3\n"
        "    open(__file__, 'a').write('#')\n"
    )
    seen = run(root, trusted={"tests/test_a.py": "0" * 64})
    assert "gc.get_objects" in seen.alarms
    assert {"builtins.abs", "file:tests/test_a.py", "unittest.case.TestCase.assertEqual"} <= set(seen.changed)


def test_the_secret_is_in_no_argument_variable_or_main_module(tmp_path):
    root = tree(tmp_path)
    (root / "tests/test_a.py").write_text(
        "import os, sys\n"
        "def test_a():\n"
        "    shown = open('/proc/self/cmdline').read() + open('/proc/self/environ').read()\n"
        "    assert 'key' not in shown.replace('\\0', ' ').split()\n"
        "    assert not [n for n in sys.modules if n.startswith('envfarm')]\n"
        "    assert not [n for n in vars(sys.modules['__main__']) if not n.startswith('__') and n != 'sys']\n"
        "    assert sys.stdin.read() == '' if False else os.read(0, 1) == b''\n"
    )
    assert list(run(root).report.statuses.values()) == [TestStatus.passed]


@pytest.mark.parametrize("name", ["paths", "channel", "watch", "tracer", "reporter", "main"])
def test_what_runs_in_a_box_is_python_3_7(name):
    source = (resources.files("envfarm_verifiers.inbox") / f"{name}.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 7))
    assert not {"removeprefix", "removesuffix"} & {
        n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)
    }


@pytest.mark.slow
@pytest.mark.registry
@pytest.mark.parametrize(("python", "requirement"), [("3.7", "pytest==6.0.0"), ("3.8", "pytest<8"), ("3.13", "pytest")])
def test_other_pythons_and_pytests(tmp_path, python, requirement):
    found = sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {python} among pyenv's")
    subprocess.run([found[-1], "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    interpreter = tmp_path / "venv/bin/python"
    packages = [requirement, "attrs", "pytest-subtests"] if python == "3.8" else [requirement, "attrs"]
    subprocess.run([find_uv_bin(), "pip", "install", "-q", "--python", interpreter, *packages], check=True)
    root = tree(tmp_path / "repo")
    seen = run(root, trusted={}, interpreter=str(interpreter))
    assert seen.report.outcome is RunOutcome.finished and seen.closed and not seen.forged
    assert seen.report.statuses["tests/test_a.py::TestU::test_sub"] is TestStatus.failed
    assert seen.report.statuses["tests/test_a.py::test_xpass"] is TestStatus.xpassed
