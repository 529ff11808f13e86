"""A step: independent of how it is cut, algorithm-blind, and silent about nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch
from envfarm_rl.policy import MiMo
from envfarm_rl.samples import Episode, EpisodeGroup, Outcome
from envfarm_rl.trainer.config import TrainConfig
from envfarm_rl.trainer.source import Rollouts
from envfarm_rl.trainer.step import Trainer

from envfarm.core.errors import TrainerError

from .training import config

Groups = tuple[EpisodeGroup, ...]


@pytest.fixture(scope="module")
def groups() -> Groups:
    """Episodes of the engine with drafts, with rewards dealt out so that every group has a signal."""
    chosen = config(source={"options": {"length": 4}})
    found = asyncio.run(Rollouts(chosen, chosen.load_policy()).collect(0)).groups
    return tuple(change(group, deal) for group in found)


def change(group: EpisodeGroup, to: Any) -> EpisodeGroup:
    return EpisodeGroup(group.task, tuple(to(episode) for episode in group.episodes))


def deal(episode: Episode) -> Episode:
    outcome = (Outcome.passed, Outcome.failed, Outcome.failed)[episode.index % 3]
    return replace(episode, outcome=outcome, reward=float(outcome is Outcome.passed))


def mask(episode: Episode) -> Episode:
    return replace(episode, outcome=Outcome.infra, reason="box_lost")


def trained(chosen: TrainConfig, groups: Groups) -> tuple[Trainer, dict[str, Any]]:
    trainer = Trainer(chosen.load_policy(), chosen)
    return trainer, trainer.step(groups)


def weights(policy: MiMo) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


SMALL = {"lr": 1e-4, "lr_heads": 1e-4}


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo"])
def test_what_is_learned_does_not_depend_on_how_the_batch_is_cut(groups: Groups, name: str) -> None:
    cuts = [(64, 1 << 14), (9, 24)]
    found: list[tuple[Trainer, dict[str, Any]]] = []
    for row, micro in cuts:
        cut = {"name": name, "row_tokens": row, "micro_tokens": micro, "epochs": 2}
        found.append(trained(config(engine={"max_context": 9}, optimiser=SMALL, algorithm=cut), groups[:2]))
    first, metrics = found[0]
    start, moved = weights(config().load_policy()), weights(first.policy)
    assert metrics["trained_tokens"] == 32 and metrics["grad_norm"] > 0
    for other, same in found[1:]:
        # AdamW turns gradients of nothing but rounding into whole updates: the change is compared as a vector.
        assert (weights(other.policy) - moved).norm() < 2e-3 * (moved - start).norm()
        for key in ("loss", "grad_norm", "head_loss", "head_grad_norm", "ess", "clipped_positive"):
            assert same[key] == pytest.approx(metrics[key], abs=1e-5, rel=1e-4), key


def test_denominators_are_those_of_the_whole_batch(groups: Groups) -> None:
    constant = trained(config(algorithm={"response_tokens": 40}), groups)[1]
    mean = trained(config(algorithm={"response_tokens": 0}), groups)[1]
    assert mean["grad_norm"] == pytest.approx(constant["grad_norm"] * (40 * 16) / 64, rel=1e-4)


def test_training_heads_does_not_move_the_policy(groups: Groups) -> None:
    online, offline = (trained(config(heads={"online": each}), groups)[0].policy.state_dict() for each in (True, False))
    start = config().load_policy().state_dict()
    for name, tensor in online.items():
        if name.startswith("model.mtp."):
            assert torch.equal(offline[name], start[name])
        else:
            assert torch.equal(offline[name], tensor)
    assert any(not torch.equal(online[name], start[name]) for name in online if name.startswith("model.mtp."))


def test_rollout_and_training_agree_on_log_probabilities(groups: Groups) -> None:
    metrics = trained(config(), groups)[1]
    assert 0 <= metrics["max_logprob_gap"] <= 1e-5
    assert metrics["ess"] == pytest.approx(1.0, abs=1e-5)
    planted = tuple(change(group, off_by_a_little) for group in groups)
    assert trained(config(), planted)[1]["max_logprob_gap"] == pytest.approx(0.125, abs=1e-4), "a wrong log is seen"


def off_by_a_little(episode: Episode) -> Episode:
    (sample,) = episode.samples
    return replace(episode, samples=(replace(sample, logprobs=tuple(each - 0.125 for each in sample.logprobs)),))


@pytest.mark.parametrize("reason", ["all_masked", "no_signal"])
def test_a_batch_that_teaches_nothing_leaves_everything_as_it_was(groups: Groups, reason: str) -> None:
    to = mask if reason == "all_masked" else lambda each: replace(each, outcome=Outcome.failed, reward=0.0)
    trainer = Trainer(config().load_policy(), config())
    before = weights(trainer.policy)
    metrics = trainer.step(tuple(change(group, to) for group in groups))
    assert metrics["skipped"] == reason and trainer.version == metrics["version"] == 0
    assert torch.equal(weights(trainer.policy), before)
    assert "loss" not in metrics and metrics["launched"] == 16
    assert metrics["masked"] == ({"infra:box_lost": 16} if reason == "all_masked" else {})


def test_stale_episodes_are_masked_and_counted(groups: Groups) -> None:
    trainer = Trainer(config().load_policy(), config())
    trainer.version = 1
    assert trainer.step(groups)["masked"] == {"stale": 16}
    trainer = Trainer(config().load_policy(), config(rollout={"staleness": 1}))
    trainer.version = 1
    metrics = trainer.step(groups)
    assert metrics["masked"] == {} and metrics["version"] == 2


def test_numbers_that_are_none_end_the_run_with_a_name(groups: Groups) -> None:
    def reward(episode: Episode) -> Episode:
        return replace(episode, reward=float("nan"))

    with pytest.raises(TrainerError, match="not all rewards are finite"):
        trained(config(), tuple(change(group, reward) for group in groups))
    trainer = Trainer(config().load_policy(), config())
    with torch.no_grad():
        trainer.policy.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(TrainerError, match="logp that are not finite"):
        trainer.step(groups)


def test_an_empty_group_is_refused() -> None:
    with pytest.raises(TrainerError, match="empty"):
        trained(config(), (EpisodeGroup("t", ()),))
