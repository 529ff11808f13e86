"""The same code on a GPU: laws, drafts, training. Skipped, and said to be, where there is none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Request
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.trainer.run import Run

from .engine_cases import DENSE, SMALL, counting, made, prompts, sample
from .training import config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def test_logits_are_those_of_the_cpu() -> None:
    policy = made(SMALL)
    tokens = torch.tensor([prompts(1, 60, seed=5)[0] * 2])
    expected = policy(tokens)
    torch.testing.assert_close(policy.cuda()(tokens.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_drafts_change_no_greedy_answer(k: int) -> None:
    policy = counting(DENSE).cuda()
    asked = [Request(each, 12, Sampling(0.0)) for each in prompts(200, 8)]
    plain, drafted = (
        EmbeddedEngine(policy, max_context=400, max_draft=each, adaptive=False).generate(asked) for each in (0, k)
    )
    assert [each.tokens for each in plain] == [each.tokens for each in drafted]


def test_what_is_logged_is_what_scoring_gives() -> None:
    engine = EmbeddedEngine(made(SMALL).cuda(), max_context=400, max_draft=3, adaptive=False)
    asked = [Request(each, 20, Sampling(0.8), seed=seed) for seed, each in enumerate(prompts(40, 40))]
    chains = [sample(*pair) for pair in zip(asked, engine.generate(asked), strict=True)]
    for chain, logprobs in zip(chains, engine.score(chains, Sampling(0.8)), strict=True):
        assert chain.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_a_run_trains_on_the_laws_that_it_drew_from(tmp_path: Path) -> None:
    chosen = config(policy={"device": "cuda"}, run={"steps": 12})
    status = asyncio.run(Run(tmp_path, chosen).run())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert status.step == len(records) == 12
    assert all(each.get("max_logprob_gap", 0.0) <= 1e-4 for each in records)
