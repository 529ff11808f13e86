"""A run killed by SIGKILL at any moment and resumed: the same metrics and the same weights, to the bit."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .training import records

_FORKS = multiprocessing.get_context("forkserver")
# torch imports _dynamo at the first step of an optimiser: seconds that each child would spend again.
_FORKS.set_forkserver_preload(["envfarm_rl.trainer.run", "torch._dynamo"])

_SCRIPT = """
import asyncio, importlib, os, sys
from pathlib import Path
os.environ["ENVFARM_FAILPOINTS"] = failpoints
os.environ["ENVFARM_FAILPOINT_LOG"] = log
import envfarm.core.failpoints
importlib.reload(envfarm.core.failpoints)
sys.path.insert(0, root)
import torch
from envfarm_rl.trainer.run import Run
from tests.rl.training import config
torch.set_num_threads(1)
run = Run(Path(folder), config(
    rollout={"staleness": staleness}, run={"steps": 4, "checkpoint_every": 2, "keep": 2},
    source={"path": "tests.rl.training:Faulty"},
))
said.set()
asyncio.run(run.run(resume=True))
"""


def process(
    folder: Path, staleness: int, *, failpoints: str = "", log: str = "", kill_after: float | None = None
) -> int:
    """One process of a run, to its end or its death; its exit code."""
    said = _FORKS.Event()
    names: dict[str, Any] = {
        "folder": str(folder), "staleness": staleness, "failpoints": failpoints, "log": log, "said": said,
        "root": str(Path(__file__).parents[2]), "__name__": "child",
    }  # fmt: skip
    child = _FORKS.Process(target=exec, args=(_SCRIPT, names), daemon=True)
    child.start()
    if kill_after is not None:
        assert said.wait(120)
        child.join(kill_after)
        child.kill()
    child.join(240)
    assert child.exitcode is not None, "the run does not come to its end"
    return child.exitcode


def outcome(folder: Path) -> tuple[list[dict[str, Any]], bytes]:
    """Metrics without times, and the last weights."""
    newest = folder / "checkpoints" / (folder / "checkpoints/latest").read_text("utf-8").strip()
    return records(folder), (newest / "policy/model.safetensors").read_bytes()


class Undisturbed:
    """A run that nobody kills, its failpoints and how long it took."""

    def __init__(self, folder: Path, staleness: int) -> None:
        log, began = folder.with_suffix(".log"), time.monotonic()
        assert process(folder, staleness, log=str(log)) == 0
        self.seconds = time.monotonic() - began
        self.outcome = outcome(folder)
        self.hits = Counter(log.read_text("utf-8").split())
        steps, weights = self.outcome
        assert [each["step"] for each in steps] == [0, 1, 2, 3]
        assert steps[-1]["version"] >= 2 and len(weights) > 1000, "a run that learns nothing proves nothing"
        assert all(each["masked"] for each in steps)


def check(folder: Path, undisturbed: Undisturbed, staleness: int, **kill: Any) -> None:
    code = process(folder, staleness, **kill)
    assert code == -9 or "kill_after" in kill, "nothing was killed"
    assert process(folder, staleness) == 0
    assert outcome(folder) == undisturbed.outcome
    assert not list((folder / "checkpoints").glob(".*")), "what was staged is left behind"


def test_three_kills(tmp_path: Path) -> None:
    plain = Undisturbed(tmp_path / "plain", 0)
    check(tmp_path / "a", plain, 0, failpoints="train.checkpoint.before_rename:2")
    check(tmp_path / "b", plain, 0, failpoints="train.metrics.after_append:3")
    check(tmp_path / "c", plain, 0, kill_after=plain.seconds / 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("staleness", [0, 1])
def test_kills_at_every_failpoint_and_at_random_moments(tmp_path: Path, staleness: int) -> None:
    plain = Undisturbed(tmp_path / "plain", staleness)
    points = [f"{name}:{hit}" for name, hits in sorted(plain.hits.items()) for hit in sorted({1, hits})]
    assert len(points) >= 16, "every durable effect has its failpoint, and comes more than once"
    for number, point in enumerate(points):
        check(tmp_path / f"point{number}", plain, staleness, failpoints=point)
    moments = random.Random(staleness)
    for number in range(8):
        check(tmp_path / f"moment{number}", plain, staleness, kill_after=moments.uniform(0, plain.seconds))
