"""``envfarm build`` on what users really give it: one sentence, the right exit code, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.toy_history import write_history
from envfarm.cli.main import run
from tests.contract.local_home import open_home

BUILD = (sys.executable, "-m", "envfarm.cli.main", "build")


@pytest.fixture
def home():
    with open_home() as path:
        yield path


def environ(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENVFARM_")}
    return (
        kept | {"ENVFARM_HOME": str(home), "ENVFARM_BUILD__LEASE_SEC": "2", "ENVFARM_BUILD__MAX_ATTEMPTS": "2"} | more
    )


def build(home: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BUILD, *args], env=environ(home, **more), capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["build"], "No repository was named. Give git:PATH or pypi:NAME"),
        (["build", "--resume"], "--resume needs the run's name"),
        (["build", "--resume", "--run", "nothing"], "There is no run 'nothing' to resume"),
        (["build", "git:.", "--policy", "genius"], "There is no policy 'genius'"),
        (["task", "show", "nothing"], "Task nothing is not in the store"),
        (["task", "grade", "nothing", "/nowhere.patch"], "Patch /nowhere.patch cannot be read"),
        (["rollout", "play", "nothing"], "Task nothing is not in the store"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_with_2(home, capsys, monkeypatch, args, sentence):
    monkeypatch.setenv("ENVFARM_HOME", str(home))
    assert run(args) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("error: ")
    assert len(captured.err.strip().splitlines()) == 1


def test_a_dry_run_prints_the_plan_and_does_nothing(home):
    done = build(home, "git:.", "--dry-run", "--limit", "3")
    assert done.returncode == 0
    plan = json.loads(done.stdout)
    assert plan["config"]["build"]["limit"] == 3
    assert not (home / "envfarm.db").exists()


def test_a_folder_that_is_no_repository_is_recorded_and_the_run_ends_with_1(home, tmp_path):
    done = build(home, f"git:{tmp_path}", "--run", "r", "--json")
    assert done.returncode == 1
    failed = json.loads(done.stdout)["packages"]["failed"]
    assert {entry["reason"] for entry in failed} <= {"repository_missing", "repository_broken"}
    assert str(tmp_path) in failed[0]["detail"]


def test_an_index_that_is_down_is_said_so_and_retried_within_the_budget(home):
    down = "http://127.0.0.1:9/simple"
    done = build(home, "pypi:humanize", "--run", "r", UV_DEFAULT_INDEX=down, UV_INDEX_URL=down, PIP_INDEX_URL=down)
    assert done.returncode == 1
    assert "index_unreachable" in done.stdout
    assert "humanize: mine gave nothing:" in done.stderr


@pytest.mark.registry
def test_an_unknown_package_is_said_so(home):
    done = build(home, "pypi:envfarm-no-such-package-7f3a", "--run", "r")
    assert done.returncode == 1
    assert "package_unknown" in done.stdout


@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing_and_is_resumed(home, tmp_path, number):
    repo = write_history(tmp_path / "money")
    args = (*BUILD, f"git:{repo}", "--run", "r", "--synth", "1")
    process = subprocess.Popen(args, env=environ(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((home / "boxes").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted: what was finished is kept" in told
    assert not list((home / "boxes").glob("*"))
    again = build(home, "--run", "r", "--resume", "--json")
    assert again.returncode == 0, again.stderr
    figures = json.loads(again.stdout)
    assert figures["tasks"]["commit_valid"] == 4
    assert figures["tasks"]["synth_valid"] == 1
