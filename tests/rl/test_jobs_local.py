"""Runs of this machine: detached, interrupted, killed, cancelled, resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from envfarm_rl.jobs import local

from envfarm.core.process import Process
from envfarm.telemetry.training import Job, Where

from .jobs import MARK, Home, wait_for

MANY = 100_000
"""Steps that no test waits for."""


def test_ctrl_c_commits_a_checkpoint_and_exits_with_130(tmp_path: Path) -> None:
    home = Home(tmp_path, steps=MANY)
    with home.started("run", home.config) as child:
        wait_for(lambda: len(home.steps()) >= 3, "the third step")
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "Interrupted" in err and "Traceback" not in err
    told = home.status()
    assert told["state"] == "cancelled"
    assert home.committed()[-1] == f"step-{told['status']['step']:08}"
    assert len(home.steps()) == told["status"]["step"] >= 3


def test_a_submitted_run_is_listed_followed_cancelled_and_leaves_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path, steps=MANY)
    sent = home.train("submit", home.config, "--on", "local", "--json")
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout)["state"] == "submitted"
    try:
        wait_for(lambda: len(home.steps()) >= 3, "the third step")
        assert home.status()["state"] == "running"
        assert "step 1 " in home.train("logs", "digits").stdout
        cancelled = home.train("cancel", "digits", "--json")
        assert cancelled.returncode == 0, cancelled.stderr
        assert json.loads(cancelled.stdout)["state"] == "cancelled"
        assert home.processes() == {}
        assert home.committed(), "what was done is kept"
    finally:
        for pid in home.processes():
            os.kill(pid, signal.SIGKILL)


def test_a_run_killed_by_sigkill_is_lost_and_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    home = Home(tmp_path, steps=MANY)
    with home.started("run", home.config) as child:
        wait_for(lambda: len(home.committed()) >= 2, "the second checkpoint")
        child.kill()
        child.wait()
    assert home.status()["state"] == "lost"
    newest = home.committed()[-1]
    done = int(newest.removeprefix("step-"))
    home.config.write_text(home.config.read_text("utf-8").replace(f"steps = {MANY}", f"steps = {done + 2}"), "utf-8")
    resumed = home.train("run", home.config, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"Resumed from {newest}." in resumed.stderr
    assert [each["step"] for each in home.steps()] == list(range(done + 2))


@pytest.mark.parametrize("deaf", [False, True])
def test_a_job_that_does_not_listen_is_killed_with_what_it_started(
    tmp_path: Path, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, steps=1)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""
    up = f"pathlib.Path({str(tmp_path / 'up')!r}).touch()"
    code = f"{ignore}import subprocess, pathlib; {up}; subprocess.run(['sleep', '60'])"
    home.folder.mkdir(parents=True)
    monkeypatch.setenv(MARK, home.mark)
    job = local.submit(home.folder, (sys.executable, "-c", code), Job())
    assert job.on is Where.local and job.process == Process.of(job.process.pid)
    wait_for((tmp_path / "up").exists, "the job's start")
    assert local.cancel(job, grace_sec=1 if deaf else 60) is not deaf
    assert not job.process.alive
    if deaf:
        wait_for(lambda: not home.processes(), "the end of what it started", 20)
    else:
        for pid in home.processes():
            os.kill(pid, signal.SIGKILL)
