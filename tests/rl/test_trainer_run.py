"""A run from its first step to its last, its cancelling, and what ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from envfarm_rl.policy import load_policy
from envfarm_rl.samples import EpisodeGroup
from envfarm_rl.trainer.config import TrainConfig
from envfarm_rl.trainer.metrics import read_status
from envfarm_rl.trainer.run import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envfarm.core.errors import ConfigError, Reason, TrainerError
from envfarm.core.process import own_process
from envfarm.telemetry.training import State, Status

from ..contract.small_disk import fill, small_disk
from .training import Faulty, config, records

FAULTY = {"path": "tests.rl.training:Faulty"}


def run(folder: Path, chosen: TrainConfig, *, resume: bool = False) -> Status:
    return asyncio.run(Run(folder, chosen).run(resume=resume))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = folder / "checkpoints" / (folder / "checkpoints/latest").read_text("utf-8").strip()
    return load_policy(newest / "policy").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def status_of(folder: Path) -> Status:
    found = read_status(folder)
    assert found is not None
    return found


def test_a_run_is_a_function_of_its_configuration_and_may_stop_on_its_way(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(whole, config(source=FAULTY))
    assert (done.state, done.step, done.process) == (State.finished, 4, own_process())
    run(parts, config(source=FAULTY, run={"steps": 2}))
    assert run(parts, config(source=FAULTY), resume=True).note == "Resumed from step-00000002."
    assert records(parts) == records(whole) and same(weights(parts), weights(whole))
    found = records(whole)
    assert [each["step"] for each in found] == [0, 1, 2, 3]
    assert all(each["scored"] + sum(each["masked"].values()) + each["unscorable"] == each["launched"] for each in found)
    assert all(each.get("max_logprob_gap", 0.0) <= 1e-4 for each in found)
    assert found[-1]["version"] == done.version == sum(not each["skipped"] for each in found)
    with pytest.raises(ConfigError, match="it holds a run"):
        run(whole, config(source=FAULTY))


def test_rollouts_run_ahead_by_staleness_and_no_further(tmp_path: Path) -> None:
    seen: dict[int, list[tuple[int, int]]] = {}
    for staleness in (0, 1):
        log: list[tuple[int, int]] = []

        class Watched(Faulty):
            async def collect(self, tasks: Any, group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
                log.append((step, self._engine.version))  # noqa: B023
                return await super().collect(tasks, group_size, step=step, seed=seed)

        globals()["Watched"] = Watched
        run(tmp_path / str(staleness), config(rollout={"staleness": staleness}, source={"path": f"{__name__}:Watched"}))
        seen[staleness] = log
        versions = [each["version"] for each in records(tmp_path / str(staleness))]
        assert log == [(step, ([0] * (1 + staleness) + versions)[step]) for step in range(4)]
    assert seen[0] != seen[1]


def test_tensorboard_shows_what_the_log_holds(tmp_path: Path) -> None:
    run(tmp_path, config(run={"steps": 2}))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("reward", "accepted_length"):
        assert [point.value for point in board.Scalars(name)] == pytest.approx(
            [each[name] for each in records(tmp_path)]
        )
    assert {"draft_conditional/1", "seconds/rollout", "tokens_per_sec/train"} <= set(board.Tags()["scalars"])


class Stopping(Faulty):
    """Presses Ctrl-C while a batch is rolled out."""

    at = 3

    async def collect(self, tasks: Any, group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        if step == self.at:
            Stopping.at = -1
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        return await super().collect(tasks, group_size, step=step, seed=seed)


def test_ctrl_c_commits_what_is_done(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(whole, config(source=FAULTY))
    chosen = config(source={"path": f"{__name__}:Stopping"})
    Stopping.at = 3
    # a worker of a parallel test run ignores the signal; a user's terminal does not
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(stopped, chosen)
    finally:
        signal.signal(signal.SIGINT, before)
    found = status_of(stopped)
    assert (found.state, found.step, found.alive) == (State.cancelled, 3, False)
    assert "step-00000003" in run(stopped, chosen, resume=True).note
    assert records(stopped) == records(whole) and same(weights(stopped), weights(whole))


async def test_an_update_under_way_is_finished_before_a_cancelled_run_ends(tmp_path: Path) -> None:
    task = asyncio.create_task(Run(tmp_path, config(run={"steps": 50, "checkpoint_every": 50})).run())
    while not (tmp_path / "metrics.jsonl").exists() or len(records(tmp_path)) < 2:  # noqa: ASYNC110  (a run tells by its files)
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = status_of(tmp_path)
    assert found.state is State.cancelled and 2 <= found.step == len(records(tmp_path))
    assert found.version == records(tmp_path)[-1]["version"]
    assert (tmp_path / f"checkpoints/step-{found.step:08}").is_dir()


class Broken(Faulty):
    """Fails at its second batch."""

    async def collect(self, tasks: Any, group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        if step == 1:
            raise RuntimeError("the farm is gone")
        return await super().collect(tasks, group_size, step=step, seed=seed)


class Empty(Faulty):
    """Gives groups of nothing."""

    async def collect(self, tasks: Any, group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        return [EpisodeGroup(task, ()) for task in tasks]


@pytest.mark.parametrize(
    ("name", "error", "says"), [("Broken", RuntimeError, "the farm is gone"), ("Empty", TrainerError, "empty")]
)
def test_what_ends_a_run_is_told(tmp_path: Path, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        run(tmp_path, config(source={"path": f"{__name__}:{name}"}))
    found = status_of(tmp_path)
    assert found.state is State.failed and found.error is not None
    assert says in found.error.message and not found.alive


def test_a_context_that_is_too_short_is_a_counted_outcome(tmp_path: Path) -> None:
    run(tmp_path, config(engine={"max_context": 3}, run={"steps": 1}))
    (found,) = records(tmp_path)
    assert found["truncated"] == found["scored"] == 16 and found["skipped"] == "no_signal" and found["version"] == 0


def test_a_resumed_run_keeps_its_configuration(tmp_path: Path) -> None:
    run(tmp_path, config(run={"steps": 1}))
    with pytest.raises(TrainerError, match=r"optimiser\.lr differs") as caught:
        run(tmp_path, config(optimiser={"lr": 0.5}), resume=True)
    assert caught.value.reason is Reason.checkpoint_mismatch
    assert run(tmp_path, config(run={"steps": 2, "keep": 1}), resume=True).step == 2


def test_an_unknown_option_of_the_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unexpected keyword argument 'bases'"):
        run(tmp_path, config(source={"options": {"bases": 3}}))


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_damaged_checkpoint_is_passed_over_and_the_run_comes_out_the_same(tmp_path: Path, staleness: int) -> None:
    chosen = config(source=FAULTY, rollout={"staleness": staleness})
    run(tmp_path, chosen)
    before, log = weights(tmp_path), records(tmp_path)
    state = tmp_path / "checkpoints/step-00000004/state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    again = run(tmp_path, chosen, resume=True)
    assert "step-00000004 was passed over" in again.note and "Resumed from step-00000002." in again.note
    assert records(tmp_path) == log and same(weights(tmp_path), before)


def test_a_log_shorter_than_the_checkpoint_says_is_refused(tmp_path: Path) -> None:
    run(tmp_path, config(run={"steps": 1}))
    (tmp_path / "metrics.jsonl").write_text("", "utf-8")
    with pytest.raises(TrainerError, match="the checkpoint counts on"):
        run(tmp_path, config(run={"steps": 2}), resume=True)


def test_a_run_that_somebody_works_on_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, config(run={"steps": 1}))
    values = json.loads((tmp_path / "status.json").read_text("utf-8"))
    values |= {"state": "running", "process": {"pid": 1, "start": _start_of(1)}}
    (tmp_path / "status.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(ConfigError, match="process 1 works on it"):
        run(tmp_path, config(run={"steps": 2}), resume=True)


def _start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[19])


class Filling(Faulty):
    """Takes all the room that there is on ``disk`` before its fourth batch."""

    disk: Path | None = None

    async def collect(self, tasks: Any, group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        if step == 3 and self.disk is not None:
            fill(self.disk)
        return await super().collect(tasks, group_size, step=step, seed=seed)


def test_a_full_disk_ends_the_run_and_what_was_saved_stays(tmp_path: Path) -> None:
    run(tmp_path / "whole", config(source=FAULTY))
    chosen = config(source={"path": f"{__name__}:Filling"})
    with small_disk(tmp_path / "disk", "4m") as disk:
        Filling.disk = disk
        with pytest.raises(TrainerError, match="the disk is full") as caught:
            run(disk / "run", chosen)
        assert caught.value.reason is Reason.disk_full
        Filling.disk = None
        (disk / "filler").unlink()
        assert "Resumed from step-00000002." in run(disk / "run", chosen, resume=True).note
        assert records(disk / "run") == records(tmp_path / "whole")
        assert same(weights(disk / "run"), weights(tmp_path / "whole"))
