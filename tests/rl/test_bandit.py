"""The ladder's first rung: bandits, whose optimum and rate are known, trained by the pieces that train the policy."""

from __future__ import annotations

import itertools

import pytest
import torch
from envfarm_rl.algorithms.advantages import advantages
from envfarm_rl.algorithms.policy_loss import policy_loss
from envfarm_rl.algorithms.presets import preset
from envfarm_rl.chains.logprobs import token_logprobs
from envfarm_rl.chains.packing import pack
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from envfarm_rl.samples import Sample
from envfarm_rl.trainer.optimisers import OptimiserConfig, Optimisers
from torch import Tensor

ARMS = 5


def test_exact_gradient_steps_converge_at_the_proven_rate() -> None:
    # Mei et al. 2020 (arXiv 2005.06392), theorem 2: softmax policy gradient from the uniform policy with rate 2/5
    # is at most 5 K^2 / t below the optimum after t steps.
    rewards = torch.tensor([0.9, 0.2, 0.6, 0.0, 0.5], dtype=torch.float64)
    theta = torch.zeros(ARMS, dtype=torch.float64, requires_grad=True)
    gaps: list[float] = []
    for step in range(1, 1501):
        logp = theta.log_softmax(-1)
        # One token for each arm; its advantage carries the arm's probability, which makes the sum an expectation.
        loss, _ = policy_loss(
            preset("ppo_clip"),
            logp=logp,
            prox=logp,
            behaviour=logp,
            advantages=logp.exp() * rewards,
            mask=torch.ones(ARMS, dtype=torch.bool),
            sample=torch.arange(ARMS),
            denominator=1.0,
        )
        gaps.append(float(0.9 - (logp.detach().exp() * rewards).sum()))
        assert gaps[-1] <= 5 * ARMS**2 / step
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= 0.4 * gradient
    assert gaps[0] > 0.4 and gaps[-1] < 5 * ARMS**2 / 1500 and gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.02


# Two prompts, two tokens of five: one pair is right under each. Every expectation is a sum over 25 pairs.
PROMPTS = ((6, 7), (7, 6))
RIGHT = ((1, 3), (4, 0))
PAIRS = list(itertools.product(range(ARMS), range(ARMS)))
SUPPORT = tuple(range(ARMS))
CONFIG = MiMoConfig(
    vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, swa_num_attention_heads=2, swa_num_key_value_heads=1, head_dim=12, v_head_dim=8,
    sliding_window=4, moe_layer_freq=(0, 0), num_nextn_predict_layers=0, initializer_range=0.1,
    hybrid_layer_pattern=(GLOBAL, WINDOW),
)  # fmt: skip
GROUP = 16
SAMPLING = Sampling()


def reward(prompt: int, pair: tuple[int, int]) -> float:
    """Half for each token in its place: a first token alone can be told to be right."""
    return 0.5 * sum(token == right for token, right in zip(pair, RIGHT[prompt], strict=True))


def rollout(prompt: int, pair: tuple[int, int], logprobs: tuple[float, float] = (0.0, 0.0)) -> Sample:
    return Sample(
        tokens=(*PROMPTS[prompt], *pair),
        action=(False, False, True, True),
        logprobs=(0.0, 0.0, *logprobs),
        versions=(-1, -1, 0, 0),
        supports=(None, None, SUPPORT, SUPPORT),
    )


@torch.no_grad()
def pair_logprobs(policy: MiMo, prompt: int) -> Tensor:
    """[25, 2], exact: all pairs in one packed tree."""
    packed = pack([rollout(prompt, pair) for pair in PAIRS], row_tokens=99)
    return token_logprobs(policy, packed, SAMPLING).view(-1, 2)


def value(policy: MiMo) -> float:
    """The exact expected reward, averaged over prompts; at most 1."""
    found = 0.0
    for prompt in range(2):
        chances = pair_logprobs(policy, prompt).sum(1).exp()
        found += float(sum(chance * reward(prompt, pair) for chance, pair in zip(chances, PAIRS, strict=True))) / 2
    return found


def train(name: str, sign: float = 1.0, seed: int = 1) -> tuple[float, float]:
    """Exact values before and after 24 batches of sampled groups, two updates for each."""
    policy = MiMo(CONFIG).initialise(torch.Generator().manual_seed(0))
    optimisers = Optimisers(policy, OptimiserConfig(lr=2e-2))
    generator = torch.Generator().manual_seed(seed)
    before = value(policy)
    for step in range(24):
        samples: list[Sample] = []
        values: list[float] = []
        for prompt in range(2):
            laws = pair_logprobs(policy, prompt)
            drawn = torch.multinomial(laws.sum(1).exp(), GROUP, replacement=True, generator=generator).tolist()
            samples += [rollout(prompt, PAIRS[at], tuple(laws[at].tolist())) for at in drawn]
            group = advantages([reward(prompt, PAIRS[at]) for at in drawn], [True] * GROUP)
            values += group.values
        packed = pack(samples, row_tokens=64)
        prox = token_logprobs(policy, packed, SAMPLING).detach()
        for _ in range(2):
            loss, _ = policy_loss(
                preset(name),
                logp=token_logprobs(policy, packed, SAMPLING),
                prox=prox,
                behaviour=packed.behaviour,
                advantages=sign * torch.tensor(values)[packed.sample],
                mask=torch.ones_like(packed.rows, dtype=torch.bool),
                sample=packed.sample,
                denominator=2 * GROUP,
            )
            loss.backward()
            optimisers.step_policy(step)
    return before, value(policy)


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo", "dppo_mask"])
def test_a_policy_reaches_the_optimum_from_samples(name: str) -> None:
    before, after = train(name)
    assert before < 0.3 and after > 0.95


def test_an_advantage_of_the_wrong_sign_is_noticed() -> None:
    _, after = train("ppo_clip", sign=-1.0)
    assert after < 0.1
