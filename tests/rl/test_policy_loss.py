"""Policy losses: on-policy gradient, finite differences, truth tables, an enumerable bandit, the bias of weights."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from envfarm_rl.algorithms.policy_loss import Correction, LossStats, PolicyLoss, policy_loss
from envfarm_rl.algorithms.presets import PRESETS, preset
from torch import Tensor, nn

from envfarm.core.errors import ConfigError, TrainerError

NAMES = sorted(PRESETS)
LENGTHS = (4, 1, 6, 3)
SAMPLE = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
ADVANTAGES = torch.tensor([0.75, -0.25, -1.5, 1.0], dtype=torch.float64)[SAMPLE]
COUNT = sum(LENGTHS)


def noise(seed: int, scale: float, count: int = COUNT) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def run(
    spec: PolicyLoss, logp: Tensor, prox: Tensor | None = None, behaviour: Tensor | None = None, **changed: Tensor
) -> tuple[Tensor, LossStats]:
    given = {"advantages": ADVANTAGES, "mask": torch.ones(len(logp), dtype=torch.bool), "sample": SAMPLE, **changed}
    prox = logp.detach() if prox is None else prox
    return policy_loss(
        spec, logp=logp, prox=prox, behaviour=prox if behaviour is None else behaviour, denominator=7.0, **given
    )


class TwoLayers(nn.Module):
    """A policy of two layers in fp64: contexts -> log-probabilities of what was chosen."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Parameter(torch.randn(5, 8, generator=generator, dtype=torch.float64) * 0.5)
        self.second = nn.Parameter(torch.randn(8, 6, generator=generator, dtype=torch.float64) * 0.5)
        self.contexts = torch.randn(COUNT, 5, generator=generator, dtype=torch.float64)
        self.chosen = torch.randint(0, 6, (COUNT, 1), generator=generator)

    def forward(self) -> Tensor:
        logits = (self.contexts @ self.first).tanh() @ self.second
        return logits.log_softmax(-1).gather(-1, self.chosen)[:, 0]


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_the_gradient_is_the_policy_gradient(name: str) -> None:
    policy = TwoLayers()
    expected = torch.autograd.grad(-(ADVANTAGES * policy()).sum() / 7.0, list(policy.parameters()))
    found = torch.autograd.grad(run(preset(name), policy())[0], list(policy.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1e-3 and (mine - theirs).abs().max() <= 1e-6


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("cispo", "dppo_mask")])
def test_off_policy_the_gradient_equals_finite_differences(name: str) -> None:
    policy = TwoLayers()
    prox = policy().detach() + noise(1, 0.5)
    behaviour = prox + noise(2, 0.1)
    spec = preset(name)
    if name == "gspo":
        spec = replace(spec, low=0.05, high=0.05)
    if name == "mis":
        spec = replace(spec, least=0.95, most=1.05)
    loss, stats = run(spec, policy(), prox, behaviour)
    assert stats.clipped_positive + stats.clipped_negative > 0, "a test in which nothing is clipped says little"
    loss.backward()
    step = 1e-6
    for parameter in policy.parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-3
        for at in range(0, parameter.numel(), 3):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[at] += sign * step
                values.append(float(run(spec, policy().detach(), prox, behaviour)[0]))
                with torch.no_grad():
                    parameter.view(-1)[at] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(parameter.grad.view(-1)[at]), abs=1e-7)


def test_losses_with_held_weights_have_the_gradient_of_their_formula() -> None:
    policy = TwoLayers()
    prox = policy().detach() + noise(3, 1.0)
    logp = policy()
    ratio = (logp - prox).exp().detach()
    moved = logp.exp().detach() - prox.exp()
    kept = ~torch.where(ADVANTAGES > 0, moved > 0.03, moved < -0.03)
    weights = {
        replace(preset("cispo"), high=0.1): ratio.clamp_max(1.1),
        replace(preset("dppo_mask"), low=0.03, high=0.03): ratio * kept,
    }
    assert 0 < int(kept.sum()) < COUNT and 0 < int((ratio > 1.1).sum()) < COUNT
    for spec, weight in weights.items():
        expected = torch.autograd.grad(-(weight * ADVANTAGES * policy()).sum() / 7.0, policy.first)[0]
        found = torch.autograd.grad(run(spec, policy(), prox)[0], policy.first)[0]
        assert (found - expected).abs().max() <= 1e-9


def slope(spec: PolicyLoss, probability: float, ratio: float, advantage: float, weight: float = 1.0) -> float:
    """d loss / d log pi of one token, of ``probability`` under pi."""
    logp = torch.tensor([math.log(probability)], dtype=torch.float64, requires_grad=True)
    prox = logp.detach() - math.log(ratio)
    loss, _ = policy_loss(
        spec,
        logp=logp,
        prox=prox,
        behaviour=prox if spec.bypass else prox - math.log(weight),
        advantages=torch.tensor([advantage], dtype=torch.float64),
        mask=torch.tensor([True]),
        sample=torch.tensor([0]),
        denominator=1.0,
    )
    return float(torch.autograd.grad(loss, logp)[0])


@pytest.mark.parametrize(
    ("name", "ratio", "advantage", "expected"),
    [
        # The clip stops what goes further the way A pushes, and never what comes back.
        ("dapo", 1.27, 1, -1.27), ("dapo", 1.29, 1, 0), ("dapo", 1.29, -1, 1.29),
        ("dapo", 0.81, -1, 0.81), ("dapo", 0.79, -1, 0), ("dapo", 0.79, 1, -0.79),
        ("grpo", 1.21, 1, 0), ("grpo", 0.79, -1, 0), ("grpo", 1.19, 1, -1.19),
        ("bypass", 1.29, 1, 0), ("bypass", 0.79, 1, -0.79), ("decoupled", 1.21, 1, 0),
        ("gspo", 1.0003, 1, -1.0003), ("gspo", 1.0005, 1, 0), ("gspo", 0.9996, -1, 0), ("gspo", 0.9996, 1, -0.9996),
        ("cispo", 3.0, 1, -3.0), ("cispo", 6.0, 1, -5.0), ("cispo", 6.0, -1, 5.0), ("cispo", 0.1, 1, -0.1),
        # Probability .5 now: from .25 it moved by .25, from .4 by .1, from 1.0 by -.5.
        ("dppo_mask", 2.0, 1, 0), ("dppo_mask", 2.0, -1, 2.0), ("dppo_mask", 1.25, 1, -1.25),
        ("dppo_mask", 0.5, -1, 0), ("dppo_mask", 0.5, 1, -0.5),
    ],
)  # fmt: skip
def test_clip_regions_by_the_sign_of_the_advantage(name: str, ratio: float, advantage: float, expected: float) -> None:
    assert slope(preset(name), 0.5, ratio, advantage) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "weight", "advantage", "expected"),
    [
        ("ppo_clip", 1.5, 1, -1.5), ("ppo_clip", 3.0, 1, -2.0), ("ppo_clip", 3.0, -1, 2.0), ("ppo_clip", 0.1, 1, -0.1),
        ("decoupled", 3.0, 1, -3.0), ("dapo", 3.0, 1, -1.0),
        ("icepop", 0.51, 1, -0.51), ("icepop", 0.49, 1, 0), ("icepop", 4.9, -1, 4.9), ("icepop", 5.1, -1, 0),
        ("mis", 1.005, 1, -1), ("mis", 1.02, 1, 0), ("mis", 0.98, -1, 0),
        # A weight below 1 means log(mu / pi) > 0.
        ("opsm", 0.9, -1, 0), ("opsm", 0.9, 1, -1), ("opsm", 1.1, -1, 1),
    ],
)  # fmt: skip
def test_corrections_by_the_sign_of_the_advantage(name: str, weight: float, advantage: float, expected: float) -> None:
    assert slope(preset(name), 0.5, 1.0, advantage, weight) == pytest.approx(expected, abs=1e-9)


def test_samples_are_dropped_whole() -> None:
    prox = noise(0, 0.3) - 1.0
    gap = torch.zeros(COUNT, dtype=torch.float64)
    gap[0] = 0.2  # one token of the first sample: its mean over four is .05
    logp = prox.clone().requires_grad_()
    loss, stats = run(preset("mis"), logp, prox, prox - gap)
    (gradient,) = torch.autograd.grad(loss, logp)
    assert not gradient[:4].any() and gradient[4:].all()
    assert (stats.masked_positive, stats.masked_negative) == (4, 0)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_padding_and_order_change_nothing(name: str) -> None:
    policy = TwoLayers()
    logp, prox = policy().detach(), policy().detach() + noise(1, 0.15)
    behaviour = prox + noise(2, 0.1)
    spec = preset(name)

    def gradient(picks: list[Tensor], padding: int) -> tuple[Tensor, LossStats]:
        total, sums = torch.zeros(COUNT, dtype=torch.float64), []
        for pick in picks:
            leaf = logp[pick].requires_grad_()
            filled = torch.full((padding,), math.nan, dtype=torch.float64)
            loss, stats = policy_loss(
                spec,
                logp=torch.cat((leaf, filled)),
                prox=torch.cat((prox[pick], filled)),
                behaviour=torch.cat((behaviour[pick], filled)),
                advantages=torch.cat((ADVANTAGES[pick], filled)),
                mask=torch.cat((torch.ones(len(pick), dtype=torch.bool), torch.zeros(padding, dtype=torch.bool))),
                sample=torch.cat((SAMPLE[pick], torch.zeros(padding, dtype=torch.long))),
                denominator=COUNT,
            )
            total[pick] = torch.autograd.grad(loss, leaf)[0]
            sums.append(stats)
        return total, sum(sums[1:], sums[0])

    whole, stats = gradient([torch.arange(COUNT)], 0)
    shuffled = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    split = [torch.arange(COUNT).split(LENGTHS)[index] for index in (2, 0, 3, 1)]
    for picks, padding in (([shuffled], 0), (split, 0), (split, 5)):
        other, other_stats = gradient(picks, padding)
        assert (whole - other).abs().max() <= 1e-12
        assert other_stats.metrics() == pytest.approx(stats.metrics(), abs=1e-12)


def test_nothing_that_counts_gives_zero() -> None:
    logp = noise(0, 1.0).requires_grad_()
    loss, stats = run(preset("ppo_clip"), logp, mask=torch.zeros(COUNT, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and logp.grad is not None and not logp.grad.any()
    assert stats.metrics()["max_logprob_gap"] == 0


@pytest.mark.parametrize("name", ["logp", "prox", "behaviour", "advantages"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_is_named(name: str, value: float) -> None:
    given = {each: noise(1, 0.1) for each in ("logp", "prox", "behaviour", "advantages")}
    given[name][3] = value
    with pytest.raises(TrainerError, match=f"values of {name} "):
        policy_loss(
            PolicyLoss(), **given, mask=torch.ones(COUNT, dtype=torch.bool), sample=SAMPLE, denominator=1.0
        )  # fmt: skip


def test_far_off_policy_the_gradient_stays_finite() -> None:
    logp = torch.zeros(COUNT, dtype=torch.float64).requires_grad_()
    for name in NAMES:
        loss, _ = run(preset(name), logp, torch.full((COUNT,), -2000.0, dtype=torch.float64))
        assert torch.isfinite(torch.autograd.grad(loss, logp)[0]).all()


def test_statistics_by_hand() -> None:
    logp = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=torch.float64).log()
    behaviour = torch.tensor([0.5, 0.25, 0.5, 1.0], dtype=torch.float64).log()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    _, stats = run(preset("bypass"), logp, behaviour, advantages=advantages, sample=torch.zeros(4, dtype=torch.long))
    # Ratios 1, 2, 1, 1/2.
    expected_kl = ((2 - 1 - math.log(2)) + (0.5 - 1 + math.log(2))) / 4
    assert stats.metrics() == pytest.approx(
        {
            "clipped_positive": 0.5, "clipped_negative": 0.5, "masked_positive": 0.0, "masked_negative": 0.0,
            "ess": 4.5**2 / (4 * 6.25), "kl_behaviour": expected_kl, "max_logprob_gap": math.log(2),
        }
    )  # fmt: skip


# An enumerable bandit: two tokens of five, a reward for each pair, every number exact.
V = 5
PAIRS = list(itertools.product(range(V), range(V)))
REWARD = torch.rand(V, V, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def bandit(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(V, generator=generator, dtype=torch.float64).requires_grad_(),
        torch.randn(V, V, generator=generator, dtype=torch.float64).requires_grad_(),
    )


def logprobs(first: Tensor, second: Tensor) -> Tensor:
    """[25, 2]: of both tokens of each pair."""
    a, b = torch.tensor(PAIRS).T
    return torch.stack((first.log_softmax(-1)[a], second.log_softmax(-1)[a, b]), dim=1)


def expected_gradient(spec: PolicyLoss, theta: tuple[Tensor, Tensor], law: Tensor, prox: Tensor) -> list[Tensor]:
    """E over pairs drawn from ``law`` [25, 2] of the gradient of one sample's loss, by enumeration."""
    rewards = REWARD.reshape(-1)
    total = [torch.zeros_like(each) for each in theta]
    for index in range(len(PAIRS)):
        loss, _ = policy_loss(
            spec,
            logp=logprobs(*theta)[index],
            prox=prox[index],
            behaviour=law[index],
            advantages=rewards[index].expand(2),
            mask=torch.ones(2, dtype=torch.bool),
            sample=torch.zeros(2, dtype=torch.long),
            denominator=1.0,
        )
        for sum_, part in zip(total, torch.autograd.grad(loss, theta), strict=True):
            sum_ += law[index].sum().exp() * part
    return total


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_gradient_on_a_bandit_equals_the_closed_form(name: str) -> None:
    theta = bandit(0)
    law = logprobs(*theta).detach()
    found = expected_gradient(preset(name), theta, law, law)
    value = (logprobs(*theta).sum(1).exp() * REWARD.reshape(-1)).sum()
    expected = torch.autograd.grad(-value, theta)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1e-3 and (mine - theirs).abs().max() <= 1e-12


def test_importance_weights_are_unbiased_and_truncation_is_not() -> None:
    # E_mu[w f] = E_pi[f] for one token; what TIS and IcePop lose is computed, not hidden.
    pi = torch.tensor([0.5, 0.3, 0.1, 0.08, 0.02], dtype=torch.float64)
    mu = torch.tensor([0.08, 0.3, 0.3, 0.3, 0.02], dtype=torch.float64)
    f = REWARD[0]
    truth, w = (pi * f).sum(), pi / mu

    def estimate(correction: Correction, least: float, most: float) -> float:
        logp = pi.log().requires_grad_()
        spec = PolicyLoss(correction=correction, least=least, most=most)
        # With logp = prox the gradient for a token's log pi is minus its weight times its advantage.
        loss, _ = policy_loss(
            spec,
            logp=logp,
            prox=pi.log(),
            behaviour=mu.log(),
            advantages=f,
            mask=torch.ones(V, dtype=torch.bool),
            sample=torch.arange(V),
            denominator=1.0,
        )
        return float((mu * -torch.autograd.grad(loss, logp)[0]).sum())

    assert estimate(Correction.tis, 0.0, math.inf) == pytest.approx(float(truth), abs=1e-12)
    lost_tis = (mu * (w - w.clamp_max(2.0)) * f).sum()
    lost_icepop = (pi * ((w < 0.5) | (w > 5.0)) * f).sum()
    assert estimate(Correction.tis, 0.0, 2.0) == pytest.approx(float(truth - lost_tis), abs=1e-12)
    assert estimate(Correction.icepop, 0.5, 5.0) == pytest.approx(float(truth - lost_icepop), abs=1e-12)
    assert min(lost_tis, lost_icepop) > 0.01
    assert estimate(Correction.none, 0.0, 0.0) != pytest.approx(float(truth), abs=0.01)


def test_what_makes_no_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError):
        preset("reinforce_max")
    with pytest.raises(ConfigError):
        PolicyLoss(bypass=True, correction=Correction.icepop)
