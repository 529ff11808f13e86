"""``envfarm sandbox`` and ``envfarm doctor`` as a person uses them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="envfarm-test-"))
    folder.chmod(0o755)  # the boxes' user must be able to enter; pytest's own folders forbid it
    yield folder
    shutil.rmtree(folder)


def envfarm(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "envfarm.cli.main", *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_run_passes_output_and_status_on(home: Path) -> None:
    done = envfarm("sandbox", "run", "--home", str(home), "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert not list((home / "boxes").iterdir())


def test_detached_box_lives_until_it_is_removed(home: Path, tmp_path: Path) -> None:
    at = ("--home", str(home))
    started = envfarm("sandbox", "run", "--detach", "--wall", "60", *at)
    assert started.returncode == 0, started.stderr
    box = started.stdout.strip()
    (listed,) = json.loads(envfarm("sandbox", "ls", "--json", *at).stdout)
    assert listed["id"] == box and listed["alive"] and listed["owner"] == "cli"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("content")
    assert envfarm("sandbox", "cp", str(tmp_path / "in"), f"{box}:/repo", *at).returncode == 0
    changed = envfarm("sandbox", "exec", *at, "-i", box, "--", "sh", "-c", "cat >> in/file; cat in/file", stdin=" more")
    assert changed.stdout == "content more"
    assert envfarm("sandbox", "cp", f"{box}:/repo/in", str(tmp_path / "out"), *at).returncode == 0
    assert [p.read_text() for p in (tmp_path / "out").rglob("file")] == ["content more"]
    assert envfarm("sandbox", "rm", box, *at).returncode == 0
    assert json.loads(envfarm("sandbox", "ls", "--json", *at).stdout) == []
    gone = envfarm("sandbox", "exec", *at, box, "--", "true")
    assert gone.returncode == 1 and gone.stderr.startswith("error: There is no running box")


def test_detached_box_cleans_up_after_itself(home: Path) -> None:
    started = envfarm("sandbox", "run", "--detach", "--wall", "1", "--home", str(home))
    folder = home / "boxes" / started.stdout.strip()
    assert started.returncode == 0, started.stderr
    until = time.monotonic() + 20
    while folder.exists():
        assert time.monotonic() < until, "the box's folder is still there"
        time.sleep(0.1)


def test_usage_errors(home: Path) -> None:
    for args in (("run",), ("cp", "here", "there"), ("exec",), ("rm",)):
        assert envfarm("sandbox", *args).returncode == 2
    missing = envfarm("sandbox", "rm", "box-000000000000", "--home", str(home))
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1


def test_doctor_tells_the_truth_about_this_machine(home: Path) -> None:
    done = envfarm("doctor", "--json", "--home", str(home))
    findings = json.loads(done.stdout)
    probes = {probe["name"]: probe for probe in findings["probes"]}
    assert {"bubblewrap", "agent", "box start", "box boundary", "overlay", "limits", "registry"} <= set(probes)
    assert findings["ok"] is all(probe["ok"] for probe in probes.values() if probe["required"])
    assert done.returncode == (0 if findings["ok"] else 1)
    assert all(probe["remedy"] for probe in probes.values() if not probe["ok"])
    assert not list((home / "boxes").iterdir()) and not list(home.glob("doctor-*"))


def test_doctor_names_what_is_missing(home: Path) -> None:
    command = [sys.executable, "-m", "envfarm.cli.main", "doctor", "--home", str(home)]
    environ = {**os.environ, "ENVFARM_BWRAP": "/nowhere/bwrap"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Required and missing: bubblewrap, box start" in done.stderr
