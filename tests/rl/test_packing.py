"""Packing as trees: the same numbers as separate rows, each action token once, shared prefixes computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from envfarm_rl.chains.logprobs import action_logprobs, run_trunk, token_logprobs
from envfarm_rl.chains.packing import Packed, pack
from envfarm_rl.engine.sampling import Sampling, law
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from envfarm_rl.samples import Sample
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from envfarm.core.errors import ConfigError, TrainerError

VOCAB = 31
CONFIG = MiMoConfig(
    vocab_size=VOCAB, hidden_size=24, intermediate_size=32, moe_intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=1, swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=12,
    v_head_dim=8, sliding_window=5, n_routed_experts=4, num_experts_per_tok=2, initializer_range=0.15,
    hybrid_layer_pattern=(GLOBAL, WINDOW, GLOBAL),
)  # fmt: skip
TEMPERATURE = Sampling(temperature=0.7)


@pytest.fixture(scope="module")
def policy() -> MiMo:
    policy = MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "sink" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(4))
    return policy


def chain(tokens: Sequence[int], action: Sequence[int], support: tuple[int, ...] | None = None) -> Sample:
    """A sample whose behaviour log-probabilities tell its tokens apart."""
    marks = tuple(bool(each) for each in action)
    return Sample(
        tokens=tuple(tokens),
        action=marks,
        logprobs=tuple(-0.1 * token if mark else 0.0 for token, mark in zip(tokens, marks, strict=True)),
        versions=tuple(0 if mark else -1 for mark in marks),
        supports=tuple(tuple({*support, token}) if mark and support else None for token, mark in zip(tokens, marks)),  # noqa: B905
    )


def batch() -> list[Sample]:
    """Two prompts; under the first, answers that part at different depths, twins, and a chain that repeats a turn."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        return torch.randint(1, VOCAB, (count,), generator=generator).tolist()

    prompt, other = some(9), some(6)
    stem = some(4)
    tool = some(3)
    return [
        chain(prompt + stem + some(5), [0] * 9 + [1] * 9),
        chain(prompt + stem + some(2), [0] * 9 + [1] * 6, support=(1, 2, 3)),
        chain(prompt + some(7), [0] * 9 + [1] * 7),
        chain(prompt + stem, [0] * 9 + [1] * 4),
        chain(prompt + stem, [0] * 9 + [1] * 4),
        chain(prompt + stem + tool + some(4), [0] * 9 + [1] * 4 + [0] * 3 + [1] * 4),
        chain(other + some(8), [0] * 6 + [1] * 8),
        chain(other + some(3), [0] * 6 + [1] * 3, support=(4,)),
    ]


def separate(policy: MiMo, samples: Sequence[Sample]) -> Tensor:
    """Log-probabilities by one plain forward for each sample, by the engine's own law."""
    found: list[Tensor] = []
    for sample in samples:
        logits = policy(torch.tensor([sample.tokens]))[0]
        for place, action in enumerate(sample.action):
            if action:
                allowed = torch.ones(VOCAB, dtype=torch.bool)
                if (support := sample.supports[place]) is not None:
                    allowed = torch.zeros(VOCAB, dtype=torch.bool)
                    allowed[list(support)] = True
                found.append(law(logits[place - 1], TEMPERATURE, allowed)[sample.tokens[place]].log())
    return torch.stack(found)


def test_packed_gives_what_separate_rows_give(policy: MiMo) -> None:
    samples = batch()
    expected = separate(policy, samples)
    for row_tokens in (20, 24, 40, 1000):
        packed = pack(samples, row_tokens=row_tokens)
        assert packed.tokens.shape[1] <= row_tokens
        assert (token_logprobs(policy, packed, TEMPERATURE) - expected).abs().max() <= 1e-5


def test_one_row_holds_each_prefix_once() -> None:
    samples = batch()
    packed = pack(samples, row_tokens=1000)
    # Prompt, stem, three ends of it, one answer without it; the other prompt and its two answers.
    distinct = 9 + 4 + (5 + 2 + 3 + 4) + 7 + 6 + 8 + 3
    assert packed.tokens.shape[0] == 1 and packed.nodes == distinct
    assert packed.saved == sum(len(sample.tokens) for sample in samples) - distinct


def weighted_loss(policy: MiMo, packed: Packed) -> Tensor:
    """Any function of token and sample will do."""
    logps = token_logprobs(policy, packed, TEMPERATURE)
    return (logps.square() * (packed.behaviour + 1.0) * (packed.sample % 4 - 1.0)).sum()


def test_loss_and_gradients_depend_neither_on_order_nor_rows_nor_micro_batches(policy: MiMo) -> None:
    samples = [s for s in batch() for _ in range(3)]
    results: list[tuple[Tensor, list[Tensor]]] = []
    for row_tokens, part_rows, reverse in ((1000, 1, False), (30, 99, False), (24, 2, True), (20, 1, True)):
        ordered = samples[::-1] if reverse else samples
        packed = pack(ordered, row_tokens=row_tokens)
        if reverse:
            packed = replace(packed, sample=len(samples) - 1 - packed.sample)
        policy.zero_grad()
        total = torch.zeros(())
        for part in packed.parts(part_rows):
            loss = weighted_loss(policy, part)
            loss.backward()
            total = total + loss.detach()
        results.append((total, [p.grad.clone() for p in policy.parameters() if p.grad is not None]))
    policy.zero_grad()
    (loss, gradients), *others = results
    assert max(g.abs().max() for g in gradients) > 1e-2
    for other_loss, other_gradients in others:
        assert (loss - other_loss).abs() <= 1e-6 * loss.abs()
        for mine, theirs in zip(gradients, other_gradients, strict=True):
            assert (mine - theirs).norm() <= 2e-6 * mine.norm()


def test_a_node_that_sees_a_sibling_is_noticed(policy: MiMo) -> None:
    samples = batch()
    packed = pack(samples, row_tokens=1000)
    length = packed.tokens.shape[1]
    leaky = replace(packed, allowed=torch.ones(1, length, length, dtype=torch.bool))
    assert (token_logprobs(policy, leaky, TEMPERATURE) - separate(policy, samples)).abs().max() > 1e-3


def test_padding_leaves_gradients_finite(policy: MiMo) -> None:
    packed = pack([batch()[0], chain((1, 2), (0, 1))], row_tokens=19)
    assert packed.tokens.shape[0] == 2 and (packed.positions == -1).any()
    policy.zero_grad()
    token_logprobs(policy, packed, TEMPERATURE).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)
    policy.zero_grad()


def test_a_token_without_alternative_has_no_gradient(policy: MiMo) -> None:
    packed = pack([chain((1, 2, 3), (0, 1, 1), support=(3,))], row_tokens=8)
    packed = replace(packed, supports=(packed.supports[0], (3,)))
    logps = token_logprobs(policy, packed, TEMPERATURE)
    assert logps[1] == 0.0
    (gradient,) = torch.autograd.grad(logps[1], policy.lm_head.weight)
    assert not gradient.any()


def test_pieces_of_the_vocabulary_layer_give_the_same(policy: MiMo) -> None:
    packed = pack(batch(), row_tokens=40)
    hidden = run_trunk(policy, packed).hidden
    whole = action_logprobs(policy, hidden, packed, TEMPERATURE)
    pieces = action_logprobs(policy, hidden, packed, TEMPERATURE, chunk_elements=VOCAB * 7)
    assert (whole - pieces).abs().max() <= 1e-6
    for weights in (policy.lm_head.weight, policy.model.embed_tokens.weight):
        (expected,) = torch.autograd.grad(whole.square().sum(), weights, retain_graph=True)
        (found,) = torch.autograd.grad(pieces.square().sum(), weights, retain_graph=True)
        assert expected.norm() > 1e-2 and (found - expected).norm() <= 1e-6 * expected.norm()


def with_routes(policy: MiMo, sample: Sample, shift: int = 0) -> Sample:
    """The sample with the routes of its own forward; ``shift`` turns experts to make others of them."""
    taken = [r for r in policy.trunk(torch.tensor([sample.tokens])).routes if r is not None]
    routes = (torch.stack(taken, dim=2)[0] + shift).remainder(4).to(torch.uint8)
    routes[-1] = 255
    return replace(sample, routes=routes)


def test_routes_are_carried_along(policy: MiMo) -> None:
    plain = batch()
    samples = [with_routes(policy, sample) for sample in plain]
    packed = pack(samples, row_tokens=1000)
    live = token_logprobs(policy, pack(plain, row_tokens=1000), TEMPERATURE)
    assert (token_logprobs(policy, packed, TEMPERATURE) - live).abs().max() <= 1e-5
    turned = [with_routes(policy, sample, shift=2) for sample in plain]
    assert (token_logprobs(policy, pack(turned, row_tokens=1000), TEMPERATURE) - live).abs().max() > 1e-3
    # One prompt that two rollouts routed differently is two prefixes, or one of them would replay the other's.
    both = pack([samples[0], turned[0]], row_tokens=1000)
    assert both.saved == 0
    each = torch.cat([token_logprobs(policy, pack([s], row_tokens=99), TEMPERATURE) for s in (samples[0], turned[0])])
    assert (token_logprobs(policy, both, TEMPERATURE) - each).abs().max() <= 1e-5


TOKENS = st.lists(st.integers(1, 3), min_size=2, max_size=7)


@st.composite
def chains(draw: st.DrawFn) -> Sample:
    tokens = draw(TOKENS)
    action = [False, *draw(st.lists(st.booleans(), min_size=len(tokens) - 1, max_size=len(tokens) - 1))]
    action[draw(st.integers(1, len(tokens) - 1))] = True
    return chain(tokens, action)


@settings(max_examples=200, deadline=None)
@given(st.lists(chains(), min_size=1, max_size=8), st.integers(7, 40))
def test_each_action_token_is_trained_once_in_its_own_context(samples: list[Sample], row_tokens: int) -> None:
    packed = pack(samples, row_tokens=row_tokens)
    assert packed.tokens.shape[1] <= row_tokens
    expected = Counter(
        (index, sample.tokens[: place + 1])
        for index, sample in enumerate(samples)
        for place, action in enumerate(sample.action)
        if action
    )
    found: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for row, read, target, owner in zip(packed.rows, packed.reads, packed.targets, packed.sample, strict=True):
        seen = packed.allowed[row, read].nonzero()[:, 0]
        depths = packed.positions[row, seen]
        assert depths.sort().values.tolist() == list(range(len(seen)))
        context = packed.tokens[row, seen[depths.argsort()]].tolist()
        found[int(owner), (*context, int(target))] += 1
    assert found == expected
    parts = list(packed.parts(1))
    assert torch.cat([part.targets for part in parts]).sort().values.equal(packed.targets.sort().values)
    assert sum(part.nodes for part in parts) == packed.nodes
    back = pack(samples[::-1], row_tokens=row_tokens)
    assert back.tokens.equal(packed.tokens) and back.allowed.equal(packed.allowed)


def test_what_cannot_be_packed_is_refused(policy: MiMo) -> None:
    good = chain((1, 2, 3), (0, 1, 1))
    bad = [
        [],
        [chain((1, 2), (0, 0))],
        [chain((1, 2), (1, 1))],
        [chain(range(1, 20), [0] * 18 + [1])],
        [replace(good, supports=(None, (5,), None))],
        [good, with_routes(policy, good)],
        [replace(good, routes=torch.full((3, 2, 2), 255, dtype=torch.uint8))],
    ]
    for samples in bad:
        with pytest.raises(TrainerError):
            pack(samples, row_tokens=10)


def test_a_law_that_cannot_be_known_is_refused(policy: MiMo) -> None:
    packed = pack(batch(), row_tokens=1000)
    hidden = run_trunk(policy, packed).hidden
    for sampling in (Sampling(temperature=0.0), Sampling(top_p=0.9), Sampling(top_k=3)):
        with pytest.raises(ConfigError):
            action_logprobs(policy, hidden, packed, sampling)


def test_without_the_support_the_ratio_is_off_by_the_mass_cut(policy: MiMo) -> None:
    # A token drawn by top-p: with the support its ratio to the behaviour law is 1, without it 1 over the mass kept.
    prompt = (5, 6, 7)
    logits = policy(torch.tensor([prompt]))[0, -1]
    cut = law(logits, Sampling(top_p=0.6))
    support, token = tuple(cut.nonzero()[:, 0].tolist()), int(cut.argmax())
    mass = law(logits, Sampling())[list(support)].sum()
    sample = chain((*prompt, token), (0, 0, 0, 1))
    replayed = replace(sample, supports=(None, None, None, support))
    off = token_logprobs(policy, pack([sample], row_tokens=8), Sampling()) - cut[token].log()
    on = token_logprobs(policy, pack([replayed], row_tokens=8), Sampling()) - cut[token].log()
    assert on.abs().max() <= 1e-5 and mass < 0.95
    assert (off - mass.log()).abs().max() <= 1e-5
