"""Drafts change the speed and never the law: joint laws of what is generated, by chi-square."""

from __future__ import annotations

import pytest
import torch
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Request
from envfarm_rl.engine.sampling import Sampling, law
from envfarm_rl.policy import MiMo
from scipy.stats import chisquare
from torch import Tensor

from .engine_cases import TINY, Bounded, V, joint, made

N = 20_000
CASES = {  # how tokens are drawn, under which constraint, and the factor on drafts' temperature
    "plain": (Sampling(1.0), None, 1.0),
    "cool": (Sampling(0.6, top_k=3), None, 0.5),
    "hot": (Sampling(1.7, top_p=0.9), None, 0.0),
    "constrained": (Sampling(1.0), Bounded(), 1.0),
}
LEVEL = 1e-3 / 7
"""Of each test, by Bonferroni over the cases."""


def engine(policy: MiMo, k: int = 3, **options) -> EmbeddedEngine:
    return EmbeddedEngine(policy, **{"max_context": 400, "max_draft": k, "adaptive": False, **options})


def p_value(codes: Tensor, due: Tensor) -> float:
    """Chi-square of counted codes against their probabilities, cells with few expected ones pooled."""
    seen, due = torch.bincount(codes, minlength=len(due)).double(), due * len(codes)
    large = due >= 5
    seen = torch.cat((seen[large], seen[~large].sum()[None]))
    due = torch.cat((due[large], due[~large].sum()[None]))
    if due[-1] == 0:
        assert seen[-1] == 0, "a sequence that the policy never gives"
        seen, due = seen[:-1], due[:-1]
    return float(chisquare(seen.numpy(), (due * seen.sum() / due.sum()).numpy()).pvalue)


@pytest.mark.parametrize(
    ("case", "k"),
    [("plain", 1), ("plain", 2), ("plain", 3), ("cool", 2), ("hot", 3), ("constrained", 1), ("constrained", 3)],
)
def test_the_joint_law_of_what_is_generated_is_the_policys(case: str, k: int) -> None:
    sampling, constraint, factor = CASES[case]
    policy, length = made(TINY), k + 2
    subject = engine(policy, k, max_batch=N)
    state = subject.state_dict()
    state["temperature"]["factors"] = [factor] * k
    subject.load_state_dict(state)
    prompt = (1, 0, 2)
    found = subject.generate([Request(prompt, length, sampling, constraint=constraint, seed=seed) for seed in range(N)])
    tokens = torch.tensor([each.tokens for each in found])
    codes = (tokens * V ** torch.arange(length - 1, -1, -1)).sum(1)
    due = joint(policy, prompt, length, sampling, constraint)
    assert p_value(codes, due) > LEVEL
    assert p_value(codes, due.roll(1).clamp_min(1e-9)) < LEVEL, "a test that sees nothing"
    assert min(subject.acceptance.conditional) > 0


def test_measured_acceptance_is_the_overlap_of_the_laws() -> None:
    policy, prompt = made(TINY), (1, 0, 2)
    subject = engine(policy, 1, max_batch=N)
    subject.generate([Request(prompt, 1, seed=seed) for seed in range(N)])
    hidden = policy.trunk(torch.tensor([prompt])).hidden
    length = len(prompt) - 1
    out = policy.heads[0](hidden[:, :length], policy.embed(torch.tensor([prompt[1:]])), torch.arange(length)[None])
    p, q = law(policy.logits(hidden[0, -1]), Sampling()), law(policy.lm_head(out[0, -1]), Sampling())
    overlap = float(torch.minimum(p, q).sum())
    assert 0.1 < overlap < 0.95
    assert abs(subject.acceptance.conditional[0] - overlap) <= 3 * (overlap * (1 - overlap) / N) ** 0.5
