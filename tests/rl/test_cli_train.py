"""``envfarm train`` on what users really give it: one sentence, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from envfarm_rl.jobs import registry

from envfarm.cli.main import run
from envfarm.telemetry.training import Job

from .jobs import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path, steps=2)
    monkeypatch.setenv("ENVFARM_HOME", str(made.path))
    return made


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(["train", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and len(err.strip().splitlines()) == 1
    return err


def test_a_dry_run_prints_everything_and_does_nothing(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "run", str(home.config), "--dry-run", "--actors"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["run"] == "digits"
    assert plan["config"]["rollout"]["staleness"] == 0, "defaults are resolved"
    assert [each["does"] for each in plan["placement"]["processes"]] == [["training"]]
    assert plan["placement"]["actors"] == [{"does": ["rollouts"], "device": "cpu", "cpus": 1, "gpus": 0}]
    memory = plan["memory_bytes"]
    assert memory["weights"] > 0 and memory["kv_per_sequence"] > 0
    assert memory["optimisers"] > memory["weights"], "a momentum and more for each weight"
    assert not home.path.exists()


def test_bad_configurations(home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = home.config.read_text("utf-8")
    for old, new, sentence in (
        ("[run]\n", "[run]\nhaste = true\n", "key 'run.haste' cannot be used"),
        ("digits:Digits", "digits:Nothing", "'envfarm_rl.trainer.digits:Nothing' cannot be imported"),
        ("[engine]\n", "[engine]\nmax_draft = 4\n", "the policy has 3 MTP heads"),
        ("[rollout]", "[rollout", "is not valid TOML"),
    ):
        assert old in good
        home.config.write_text(good.replace(old, new), "utf-8")
        assert sentence in refused(capsys, "run", home.config)
    assert "No such file or directory" in refused(capsys, "run", tmp_path / "nothing.toml")
    assert not home.path.exists()


def test_bad_names_and_places(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be submitted on 'moon'" in refused(capsys, "submit", home.config, "--on", "moon")
    assert "'../up' cannot name a run" in refused(capsys, "run", home.config, "--name", "../up")
    for command in ("status", "logs", "cancel", "resume", "work"):
        assert "There is no training run 'nothing'" in refused(capsys, command, "nothing")
    assert run(["train", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_run_is_not_begun_twice(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    registry.create(home.path, "digits", {}, Job())
    assert "There is a run 'digits' already" in refused(capsys, "run", home.config)
    registry.claim(home.path, "digits")
    registry.claim(home.path, "digits")  # our own
    assert "The run 'digits' is submitted already" in refused(capsys, "run", home.config, "--resume")


def test_a_run_to_its_end(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "run", str(home.config), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["state"] == "finished" and found["status"]["step"] == 2 and found["last"]["step"] == 1
    assert [line.split("  ")[0] for line in err.splitlines() if line.startswith("step")] == ["step 1", "step 2"]
    assert run(["train", "ls", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["finished"]
    assert run(["train", "cancel", "digits"]) == 0
    assert "has ended: finished" in capsys.readouterr().err


def test_looking_needs_no_torch(home: Home) -> None:
    code = (
        "import sys; from envfarm.cli.main import run; "
        "assert run(['train', '--help']) == run(['train', 'ls']) == 0 and run(['train', 'status', 'x']) == 2; "
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=home.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
