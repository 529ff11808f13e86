"""Speculation draws from the target's law, whatever the drafts; planted bugs are caught by the same test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from envfarm_rl.engine import sampling as module
from envfarm_rl.engine.sampling import Mixed, Sampling, Verified, draw, law, uniforms, verify
from scipy.stats import chisquare, kstest
from torch import Tensor

from envfarm.core.errors import ConfigError

V = 4
N = 20_000
LEVEL = 1e-3 / 12
"""Of each test, by Bonferroni over the cases."""


class Chain:
    """A policy over an enumerable vocabulary: the law of a token given the one before, and a drafter beside it."""

    def __init__(self, sampling: Sampling, draft_temperature: float, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(V + 1, V, generator=generator)
        self.target = law(logits, sampling)
        self.draft = law(logits + 0.7 * torch.randn(V + 1, V, generator=generator), Sampling(draft_temperature))

    def joint(self, length: int) -> Tensor:
        """Probability of every sequence of ``length`` tokens after the start, [V ** length]."""
        table = self.target[V]
        for _ in range(length - 1):
            table = (table[:, None] * self.target[torch.arange(table.numel()) % V]).reshape(-1)
        return table


def fresh(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def emitted(chain: Chain, k: int, length: int, check: Callable[..., Verified], generator: torch.Generator) -> Tensor:
    """``N`` sequences of ``length`` tokens, by drafting ``k`` at a time and verifying."""
    kept = torch.zeros(N, length + k + 1, dtype=torch.long)
    lengths, last = torch.zeros(N, dtype=torch.long), torch.full((N,), V)
    while int(lengths.min()) < length:
        open_ = (lengths < length).nonzero()[:, 0]
        state, drafts, proposals = last[open_], [], []
        for _ in range(k):
            proposals.append(chain.draft[state])
            state = draw(proposals[-1], fresh(len(open_), generator=generator))
            drafts.append(state)
        drafts = torch.stack(drafts, 1) if drafts else torch.zeros(len(open_), 0, dtype=torch.long)
        context = torch.cat((last[open_, None], drafts), 1)
        proposal = torch.stack(proposals, 1) if proposals else torch.zeros(len(open_), 0, V)
        found = check(drafts, proposal, chain.target[context], fresh(len(open_), k + 1, generator=generator))
        for offset in range(k + 1):
            live = open_[found.accepted >= offset]
            kept[live, lengths[live] + offset] = found.tokens[found.accepted >= offset, offset]
        lengths[open_] += found.accepted + 1
        last[open_] = found.tokens[torch.arange(len(open_)), found.accepted]
    return kept[:, :length]


def p_value(chain: Chain, k: int, check: Callable[..., Verified] = verify, seed: int = 1) -> float:
    """Chi-square of the joint law of the first k + 2 tokens: drafts, residual and bonus are all in it."""
    length = k + 2
    tokens = emitted(chain, k, length, check, torch.Generator().manual_seed(seed))
    code = (tokens * V ** torch.arange(length - 1, -1, -1)).sum(1)
    seen, due = torch.bincount(code, minlength=V**length).double(), chain.joint(length).double() * N
    large = due >= 5
    seen = torch.cat((seen[large], seen[~large].sum()[None]))
    due = torch.cat((due[large], due[~large].sum()[None]))
    if due[-1] == 0:
        assert seen[-1] == 0, "a token that the target never gives"
        seen, due = seen[:-1], due[:-1]
    return float(chisquare(seen.numpy(), (due * seen.sum() / due.sum()).numpy()).pvalue)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("sampling", "draft_temperature"),
    [(Sampling(1.0), 1.0), (Sampling(0.6, top_k=3), 0.4), (Sampling(1.7, top_p=0.9), 0.0)],
    ids=["plain", "cool, top-k", "hot, top-p, one-hot drafts"],
)
def test_what_is_emitted_follows_the_targets_law(k: int, sampling: Sampling, draft_temperature: float) -> None:
    assert p_value(Chain(sampling, draft_temperature), k) > LEVEL


def residual_from_target(drafts: Tensor, proposal: Tensor, target: Tensor, u: Tensor) -> Verified:
    found = verify(drafts, proposal, target, u)
    rows = torch.arange(len(drafts))
    tokens = found.tokens.clone()
    refused = found.accepted < drafts.shape[1]
    tokens[rows[refused], found.accepted[refused]] = draw(target[rows, found.accepted], u[:, -1])[refused]
    return Verified(tokens, found.accepted)


def ratio_inverted(drafts: Tensor, proposal: Tensor, target: Tensor, u: Tensor) -> Verified:
    swapped = torch.cat((proposal, target[:, -1:]), 1)
    return verify(drafts, target[:, :-1], swapped, u)


def another_temperature(drafts: Tensor, proposal: Tensor, target: Tensor, u: Tensor) -> Verified:
    sharp = proposal**2
    return verify(drafts, sharp / sharp.sum(-1, keepdim=True), target, u)


def bonus_from_proposal(drafts: Tensor, proposal: Tensor, target: Tensor, u: Tensor) -> Verified:
    return verify(drafts, proposal, torch.cat((target[:, :-1], proposal[:, -1:]), 1), u)


@pytest.mark.parametrize("bug", [residual_from_target, ratio_inverted, another_temperature, bonus_from_proposal])
@pytest.mark.parametrize("k", [1, 3])
def test_planted_bugs_are_caught(bug: Callable[..., Verified], k: int) -> None:
    assert p_value(Chain(Sampling(1.0), 1.0), k, bug) < LEVEL


def test_measured_acceptance_is_the_overlap_of_the_laws() -> None:
    chain = Chain(Sampling(1.0), 1.0)
    state = torch.full((N,), V)
    generator = torch.Generator().manual_seed(5)
    drafts = draw(chain.draft[state], fresh(N, generator=generator))[:, None]
    target = chain.target[torch.stack((state, drafts[:, 0]), 1)]
    found = verify(drafts, chain.draft[state][:, None], target, fresh(N, 2, generator=generator))
    overlap = float(torch.minimum(chain.target[V], chain.draft[V]).sum())
    assert abs(float(found.accepted.double().mean()) - overlap) <= 3 * (overlap * (1 - overlap) / N) ** 0.5


def test_greedy_accepts_exactly_the_likeliest_token() -> None:
    logits = torch.randn(500, 3, 7, generator=torch.Generator().manual_seed(0))
    best = logits.argmax(-1)
    target = law(logits, Sampling(0.0))
    drafts = best[:, :2].clone()
    drafts[::2, 1] = (drafts[::2, 1] + 1) % 7
    found = verify(drafts, torch.nn.functional.one_hot(drafts, 7).float(), target, fresh(500, 3))
    assert torch.equal(found.accepted, torch.tensor([1, 2]).repeat(250))
    for row, count in enumerate(found.accepted.tolist()):
        assert torch.equal(found.tokens[row, : count + 1], best[row, : count + 1])


def test_a_validity_mask_is_part_of_the_law() -> None:
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    allowed = torch.rand(50, 9, generator=torch.Generator().manual_seed(1)) < 0.4
    allowed[:, 4] = True
    for sampling in (Sampling(1.0), Sampling(0.0), Sampling(0.7, top_k=2), Sampling(1.0, top_p=0.5)):
        found = law(logits, sampling, allowed)
        assert not found[~allowed].any() and torch.allclose(found.sum(-1), torch.ones(50))


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert torch.allclose(law(logits, Sampling(top_p=0.6)), torch.tensor([0.625, 0.375, 0.0, 0.0]))
    assert torch.allclose(law(logits, Sampling(top_p=0.5)), torch.tensor([1.0, 0.0, 0.0, 0.0]))


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"temperature": float("nan")}])
def test_impossible_sampling_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        Sampling(**wrong)  # pyright: ignore[reportArgumentType]


def test_equal_laws_are_always_accepted() -> None:
    assert module.law is law
    target = law(torch.randn(2000, 2, 5, generator=torch.Generator().manual_seed(0)), Sampling(1.0))
    drafts = draw(target[:, :1], fresh(2000, 1))
    assert bool((verify(drafts, target[:, :1], target, fresh(2000, 2)).accepted == 1).all())


def test_a_token_without_mass_is_never_drawn() -> None:
    laws = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).expand(4, 5)
    assert draw(laws, torch.tensor([0.0, 0.4999, 0.5, 1 - 2**-52], dtype=torch.float64)).tolist() == [1, 1, 3, 3]


def test_uniforms_are_uniform_and_belong_to_seed_and_place() -> None:
    seeds = torch.tensor([0, 1, -5, 2**62])
    found = uniforms(seeds, torch.arange(4), 200)
    assert found.min() >= 0 and found.max() < 1
    again = uniforms(seeds[[2, 0]], torch.tensor([2, 0]), 7)
    assert torch.equal(again, found[[2, 0], :7])
    many = uniforms(torch.arange(500), torch.zeros(500, dtype=torch.long), 40)
    assert kstest(many.flatten().numpy(), "uniform").pvalue > LEVEL
    # neighbours in seed, place and order
    later = uniforms(torch.arange(500), torch.ones(500, dtype=torch.long), 40)
    for one, two in ((many[:-1], many[1:]), (many, later), (many[:, :-1], many[:, 1:])):
        correlation = torch.corrcoef(torch.stack((one.flatten(), two.flatten())))[0, 1]
        assert abs(float(correlation)) < 4 / one.numel() ** 0.5


def test_each_row_has_the_law_of_its_own_sampling() -> None:
    samplings = [Sampling(1.0), Sampling(0.0), Sampling(1.0), Sampling(0.7, top_k=2)]
    logits = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    found = Mixed.of(samplings, logits.device).laws(logits)
    for row, sampling in enumerate(samplings):
        assert torch.equal(found[row], law(logits[row], sampling))
