"""Checkpoints: committed whole or not at all, believed only by their digests, passed over with a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from envfarm_rl.samples import Episode, EpisodeGroup, Outcome, Sample
from envfarm_rl.trainer.checkpoint import Checkpoints, Found

from envfarm.core.errors import Reason, TrainerError

from ..contract.small_disk import fill, small_disk
from .training import config

SAMPLE = Sample((1, 2), (False, True), (0.0, -0.5), (-1, 7), (None, (2, 3)), torch.zeros(2, 1, 1, dtype=torch.uint8))
GROUP = EpisodeGroup("t", (Episode("t", 0, (SAMPLE,), Outcome.infra, 0.0, "box_lost"),))
STATE: dict[str, Any] = {"groups": [(GROUP,)], "rng": (3, (1, 2), None), "tensor": torch.arange(3)}


def saved(folder: Path, *steps: int, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, config().load_policy(), STATE)
    return checkpoints


def newest(checkpoints: Checkpoints) -> Found:
    found = checkpoints.newest()
    assert found is not None
    return found


def test_everything_comes_back(tmp_path: Path) -> None:
    found = newest(saved(tmp_path, 2, 12))
    assert found.step == 12 and found.note == "Resumed from step-00000012."
    state = found.state()
    (episode,) = state["groups"][0][0].episodes
    assert (episode.outcome, episode.reason, episode.samples[0].supports) == (Outcome.infra, "box_lost", (None, (2, 3)))
    assert torch.equal(episode.samples[0].routes, SAMPLE.routes)
    assert state["rng"] == STATE["rng"] and torch.equal(state["tensor"], STATE["tensor"])
    policy, own = found.policy().state_dict(), config().load_policy().state_dict()
    assert policy.keys() == own.keys() and all(torch.equal(policy[name], own[name]) for name in own)


def test_the_last_ones_are_kept_and_the_newest_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["latest", "step-00000003", "step-00000004"]
    assert (tmp_path / "latest").read_text("utf-8") == "step-00000004\n"


def test_a_damaged_later_one_does_not_push_out_what_is_saved_after_it(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 5, keep=1)
    checkpoints = saved(tmp_path, 9, keep=2)
    cut(tmp_path / "step-00000009/state.pt")
    saved(tmp_path, 6, keep=1)
    assert newest(checkpoints).step == 6 and not (tmp_path / "step-00000005").exists()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


DAMAGES = {
    "a bit of the weights": lambda folder: flip(folder / "policy/model.safetensors"),
    "a bit of the state": lambda folder: flip(folder / "state.pt"),
    "the end of the weights": lambda folder: cut(folder / "policy/model.safetensors"),
    "no state": lambda folder: (folder / "state.pt").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: cut(folder / "manifest.json"),
    "a manifest of something else": lambda folder: (folder / "manifest.json").write_text("[1]", "utf-8"),
    "another configuration": lambda folder: (folder / "policy/config.json").write_text("{}", "utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_sentence(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "step-00000002")
    found = newest(checkpoints)
    assert found.step == 1
    assert (tmp_path / "latest").read_text("utf-8") == "step-00000001\n"
    assert found.note.startswith("step-00000002 was passed over: ") and found.note.endswith(
        "Resumed from step-00000001."
    )
    checkpoints.save(2, config().load_policy(), STATE)
    assert newest(checkpoints).step == 2


def test_no_stable_one_among_some_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-0000000{step}/state.pt").unlink()
    with pytest.raises(TrainerError, match=r"step-00000002 was .* step-00000001 was ") as caught:
        checkpoints.newest()
    assert caught.value.reason is Reason.checkpoint_corrupt
    assert Checkpoints(tmp_path / "other", keep=1).newest() is None


def test_what_a_killed_process_staged_is_not_seen(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002")
    assert newest(checkpoints).step == 1
    checkpoints.save(2, config().load_policy(), STATE)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("room", [1 << 12, 1 << 17, 3 << 17])
def test_a_full_disk_is_told_and_leaves_the_one_before(tmp_path: Path, room: int) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        checkpoints = saved(disk, 1)
        filler = fill(disk)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - room)
        with pytest.raises(TrainerError, match="the disk is full") as caught:
            checkpoints.save(2, config().load_policy(), {**STATE, "big": torch.zeros(1 << 17)})
        assert caught.value.reason is Reason.disk_full
        assert newest(checkpoints).step == 1 and not list(disk.glob(".*"))
        filler.unlink()
        checkpoints.save(2, config().load_policy(), STATE)
        assert newest(checkpoints).step == 2


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    named = set(json.loads((folder / "manifest.json").read_text("utf-8"))["sha256"])
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert named == there - {"manifest.json"}
