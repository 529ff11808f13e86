"""The test bed itself: what it starts ends with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envfarm.cli.main import run
from envfarm.core.errors import ConfigError, ProviderError
from envfarm.core.process import Process, children_of
from envfarm.testbed import bed as beds
from envfarm.testbed.bed import Bed
from envfarm.testbed.node import CGROUPS, cgroup_of
from envfarm.testbed.programs import Shape

pytestmark = pytest.mark.k8s


@pytest.fixture(autouse=True)
def able() -> None:
    if why := beds.unable():
        pytest.skip(f"k8s: {why}")


def everything_of(bed: Bed) -> list[Process]:
    return [bed.process, *(Process.of(pid) for pid in children_of(bed.process.pid))]


def gone(processes: list[Process], within_sec: float = 10.0) -> bool:
    deadline = time.monotonic() + within_sec
    while any(each.alive for each in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(each.alive for each in processes)


def test_a_killed_bed_takes_all_with_it_and_its_folder_can_be_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "bed"
    bed = beds.up(Shape.fleet, folder=folder)
    found = everything_of(bed)
    assert len(found) == 6, "supervisor, etcd, API server, controller manager, scheduler, KWOK"
    os.kill(bed.process.pid, signal.SIGKILL)
    assert gone(found)
    with pytest.raises(ProviderError, match="did not status"):
        bed.order("status")
    again = beds.up(Shape.fleet, folder=folder)
    try:
        with pytest.raises(ConfigError, match=r"runs in .* already"):
            beds.up(Shape.fleet, folder=folder)
        found = everything_of(again)
    finally:
        again.down()
    assert gone(found)
    assert not folder.exists()


def test_a_bed_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from envfarm.testbed import bed, programs;"
        "made = bed.up(programs.Shape.node, folder=Path(sys.argv[1])); print(made.process.pid, flush=True);"
        "time.sleep(600)"
    )
    folder = tmp_path / "bed"
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        bed = beds.read(folder)
        assert bed is not None
        assert bed.process.pid == pid
        found = everything_of(bed)
        assert all(each.alive for each in found)
        owner.kill()
    assert gone(found)
    bed.down()
    assert not folder.exists()
    assert not [path for path in CGROUPS.glob(f"*/{cgroup_of(folder)}") if path.exists()]


def test_the_command_line_says_what_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--folder", str(tmp_path / "bed")]
    assert run(["testbed", "status", *folder]) == 1
    assert "nothing runs" in capsys.readouterr().out
    assert run(["testbed", "exec", *folder, "--", "true"]) == 2
    assert "No bed runs" in capsys.readouterr().err
    assert run(["testbed", "up", *folder]) == 0
    try:
        assert run(["testbed", "status", *folder]) == 0
        assert "kube-apiserver" in capsys.readouterr().out
    finally:
        assert run(["testbed", "down", *folder]) == 0
    assert run(["testbed", "down", *folder]) == 0
    assert "No bed in" in capsys.readouterr().err
