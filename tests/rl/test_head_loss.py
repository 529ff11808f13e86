"""Training the MTP heads: against plain loops, without a trace in the policy, and to what a source allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from envfarm_rl.algorithms.head_loss import HeadLossKind, HeadStats, head_loss, head_places, losses, usable_heads
from envfarm_rl.algorithms.policy_loss import policy_loss
from envfarm_rl.algorithms.presets import preset
from envfarm_rl.chains.logprobs import action_logprobs, run_trunk
from envfarm_rl.chains.packing import Packed, pack
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from envfarm_rl.samples import Sample
from envfarm_rl.trainer.optimisers import OptimiserConfig, Optimisers
from torch import Tensor
from torch.nn import functional as F

from envfarm.core.errors import ConfigError

V = 13
CONFIG = MiMoConfig(
    vocab_size=V, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, swa_num_attention_heads=2, swa_num_key_value_heads=1, head_dim=12, v_head_dim=8,
    sliding_window=4, moe_layer_freq=(0, 0), initializer_range=0.15, hybrid_layer_pattern=(GLOBAL, WINDOW),
)  # fmt: skip
SAMPLING = Sampling(temperature=0.8)
ALL = tuple(range(V))


@pytest.fixture
def policy() -> MiMo:
    return MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))


def chain(tokens: Sequence[int], action: Sequence[int], support: tuple[int, ...] | None = None) -> Sample:
    marks = tuple(bool(each) for each in action)
    supports = [(*support, token) if support and mark else None for token, mark in zip(tokens, marks, strict=True)]
    nothing = (0.0,) * len(tokens)
    return Sample(tuple(tokens), marks, nothing, (0,) * len(tokens), tuple(supports))


def batch() -> list[Sample]:
    """Two documents; in the first, forks within the heads' reach, two turns, and supports."""
    generator = torch.Generator().manual_seed(1)

    def some(count: int) -> list[int]:
        return torch.randint(0, V, (count,), generator=generator).tolist()

    prompt, stem, tool = some(7), some(3), some(2)
    return [
        chain(prompt + stem + some(5), [0] * 7 + [1] * 8),
        chain(prompt + stem + some(4), [0] * 7 + [1] * 7, support=(1, 2, 3)),
        chain(prompt + stem + tool + some(3), [0] * 7 + [1] * 3 + [0] * 2 + [1] * 3),
        chain(some(3) + some(2), [0] * 3 + [1] * 2),
    ]


def product_mask(action: Sequence[bool], head: int, first: int = 2, last: int = 2) -> list[bool]:
    """The mask of head ``head`` by its definition: tokens t+2 ... t+2+head exist and are actions."""
    padded = [*action, *([False] * 9)]
    return [all(padded[t + first : t + head + last + 1]) for t in range(len(action))]


def test_truth_table_of_the_mask() -> None:
    action = [bool(int(each)) for each in "000111100110"]
    assert usable_heads(action, 3) == [0, 3, 3, 2, 1, 0, 0, 2, 1, 0, 0, 0]
    for sample in batch():
        usable = usable_heads(sample.action, 3)
        for head in range(3):
            assert [head < each for each in usable] == product_mask(sample.action, head)
    assert head_places([chain(range(12), action)], 3) == 12


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (2, 3), (3, 3)])
def test_masks_that_are_off_by_one_are_noticed(first: int, last: int) -> None:
    action = [bool(int(each)) for each in "000111100110"]
    wrong = [product_mask(action, head, first, last) for head in range(3)]
    assert wrong != [[head < each for each in usable_heads(action, 3)] for head in range(3)]


def plain(policy: MiMo, samples: Sequence[Sample], kind: HeadLossKind) -> tuple[Tensor, list[float]]:
    """The sum of losses and each head's sum of overlaps, by loops over separate chains."""
    total, overlaps = torch.zeros(()), [0.0] * len(policy.heads)
    for sample in samples:
        tokens = torch.tensor([sample.tokens])
        with torch.no_grad():
            hidden = policy.trunk(tokens).hidden
            logits, embedded = policy.logits(hidden)[0], policy.embed(tokens)
        reached = torch.ones(len(sample.tokens))
        for k, head in enumerate(policy.heads):
            length = max(1, len(sample.tokens) - 1 - k)
            out = head(hidden[:, :length], embedded[:, 1 + k :], torch.arange(length)[None])
            guesses = F.linear(out, policy.lm_head.weight.detach())[0]
            products = reached.clone()
            for t, trained in enumerate(product_mask(sample.action, k)):
                if trained:
                    support = list(dict.fromkeys(sample.supports[t + 2 + k] or ALL))
                    p = (logits[t + 1 + k][support] / 0.8).softmax(-1)
                    q = (guesses[t][support] / 0.8).softmax(-1)
                    overlap = torch.minimum(p, q).sum()
                    products[t] = reached[t] * overlap
                    overlaps[k] += float(overlap.detach())
                    total = (
                        total
                        + {
                            "cross_entropy": -q[support.index(sample.tokens[t + 2 + k])].log(),
                            "soft_cross_entropy": -(p * q.log()).sum(),
                            "tv": 1 - overlap,
                            "e2e_tv": 1 - products[t],
                        }[kind.value]
                    )
            reached = products
    return total, overlaps


def gradients(policy: MiMo, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for head in policy.heads for p in head.parameters()]))


def packed_loss(policy: MiMo, packed: Packed, kind: HeadLossKind, **given: int) -> tuple[Tensor, HeadStats]:
    return head_loss(policy, run_trunk(policy, packed).hidden, packed, SAMPLING, kind, denominator=1.0, **given)


@pytest.mark.parametrize("kind", HeadLossKind)
def test_packed_in_any_way_equals_plain_loops(policy: MiMo, kind: HeadLossKind) -> None:
    samples = batch()
    expected, overlaps = plain(policy, samples, kind)
    slopes, expected = gradients(policy, expected), float(expected.detach())
    for packed, given in (
        (pack(samples, row_tokens=99), {}),
        (pack(samples, row_tokens=15), {}),
        (pack(samples, row_tokens=99), {"chunk_elements": 5 * V * 3}),
    ):
        loss, stats = packed_loss(policy, packed, kind, **given)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert stats.overlap == pytest.approx(overlaps, rel=1e-5) and sum(stats.places) == head_places(samples, 3)
        for mine, theirs in zip(gradients(policy, loss), slopes, strict=True):
            assert (mine - theirs).norm() <= 1e-5 * max(1e-2, float(theirs.norm()))


def test_micro_batches_add_up(policy: MiMo) -> None:
    packed = pack(batch(), row_tokens=15)
    whole, stats = packed_loss(policy, packed, HeadLossKind.e2e_tv)
    parts = [packed_loss(policy, part, HeadLossKind.e2e_tv) for part in packed.parts(1)]
    assert len(parts) > 2 and sum(float(loss.detach()) for loss, _ in parts) == pytest.approx(
        float(whole.detach()), rel=1e-5
    )
    total = parts[0][1]
    for _, each in parts[1:]:
        total = total + each
    assert total.metrics() == pytest.approx(stats.metrics(), rel=1e-5)


@pytest.mark.parametrize("kind", HeadLossKind)
def test_nothing_but_the_heads_gets_a_gradient(policy: MiMo, kind: HeadLossKind) -> None:
    loss, _ = packed_loss(policy, pack(batch(), row_tokens=99), kind)
    loss.backward()
    for name, parameter in policy.named_parameters():
        if name.startswith("model.mtp."):
            assert parameter.grad is not None and (parameter.grad.any() or "sink" in name), name
        else:
            assert parameter.grad is None, name


def test_the_policys_update_is_the_same_to_the_bit_with_heads_trained() -> None:
    def train(with_heads: bool) -> MiMo:
        policy = MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))
        optimisers = Optimisers(policy, OptimiserConfig(lr=1e-2, lr_heads=1e-2, clip=1e-3))
        for step in range(3):
            packed = pack(batch(), row_tokens=20)
            hidden = run_trunk(policy, packed).hidden
            logp = action_logprobs(policy, hidden, packed, SAMPLING)
            loss, _ = policy_loss(
                preset("bypass"),
                logp=logp,
                prox=logp,
                behaviour=logp,
                advantages=packed.sample - 1.5,
                mask=torch.ones_like(packed.rows, dtype=torch.bool),
                sample=packed.sample,
                denominator=10.0,
            )
            if with_heads:
                own, _ = head_loss(policy, hidden, packed, SAMPLING, HeadLossKind.e2e_tv, denominator=10.0)
                loss = loss + own
            loss.backward()
            optimisers.step_policy(step)
            if with_heads:
                optimisers.step_heads(step)
        return policy

    with_, without, start = train(True), train(False), MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))
    for (name, mine), theirs, first in zip(
        with_.named_parameters(), without.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs) != name.startswith("model.mtp."), name
        assert not torch.equal(mine, first), name


def test_gradient_of_tv_equals_its_formula_and_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(1, V, generator=generator, dtype=torch.float64).requires_grad_()
    p = torch.randn(1, V, generator=generator, dtype=torch.float64).softmax(-1)

    def tv(z: Tensor) -> Tensor:
        ones = torch.ones(1, 1)
        return losses(HeadLossKind.tv, p, z.log_softmax(-1), ones.long(), ones.bool())[0]

    (found,) = torch.autograd.grad(tv(z), z)
    q = z.detach().softmax(-1)
    below = (q < p).double()
    assert (found - -q * (below - (q * below).sum())).abs().max() <= 1e-12
    for v in range(V):
        step = torch.zeros(1, V, dtype=torch.float64)
        step[0, v] = 1e-6
        slope = float(tv(z.detach() + step) - tv(z.detach() - step)) / 2e-6
        assert slope == pytest.approx(float(found[0, v]), abs=1e-8)


def test_with_one_head_end_to_end_is_tv() -> None:
    policy = MiMo(CONFIG.model_copy(update={"num_nextn_predict_layers": 1})).initialise(
        torch.Generator().manual_seed(3)
    )
    packed = pack(batch(), row_tokens=99)
    assert packed_loss(policy, packed, HeadLossKind.tv)[0] == packed_loss(policy, packed, HeadLossKind.e2e_tv)[0]


@pytest.mark.parametrize("kind", HeadLossKind)
def test_a_token_without_alternative_is_accepted_and_teaches_nothing(policy: MiMo, kind: HeadLossKind) -> None:
    sample = chain([1, 2, 3, 4, 5], [0, 0, 1, 1, 1])
    sample = replace(sample, supports=(None, None, (3,), (4,), (5,)))
    loss, stats = packed_loss(policy, pack([sample], row_tokens=9), kind)
    assert stats.overlap == stats.one_hot == stats.places == (3.0, 2.0, 1.0)
    assert float(loss) == 0.0 and not loss.requires_grad
    mixed = replace(sample, supports=(None, None, (3,), (4,), (5, 6)))
    loss, stats = packed_loss(policy, pack([mixed], row_tokens=9), kind)
    assert stats.places == (3.0, 2.0, 1.0) and stats.overlap[0] < 3.0
    assert any(each.any() for each in gradients(policy, loss))


def test_nothing_to_train_gives_a_constant(policy: MiMo) -> None:
    loss, stats = packed_loss(policy, pack([chain([1, 2], [0, 1])], row_tokens=9), HeadLossKind.tv)
    assert float(loss) == 0.0 and not loss.requires_grad and stats.metrics()["head_0_overlap"] == 0.0


def test_greedy_rollouts_are_refused(policy: MiMo) -> None:
    packed = pack(batch(), row_tokens=99)
    with pytest.raises(ConfigError):
        head_loss(policy, run_trunk(policy, packed).hidden, packed, Sampling(0.0), HeadLossKind.tv, denominator=1.0)


def train_heads(policy: MiMo, sample: Callable[[int], Sample], steps: int, kinds: Callable[[int], HeadLossKind]):
    """Statistics of the last step; the policy itself is held."""
    optimiser = torch.optim.AdamW([p for head in policy.heads for p in head.parameters()], lr=5e-3)
    for step in range(steps):
        packed = pack([sample(8 * step + index) for index in range(8)], row_tokens=20)
        hidden = run_trunk(policy, packed).hidden
        places = head_places([each.sample for each in packed.chains], 3)
        loss, stats = head_loss(policy, hidden, packed, Sampling(), kinds(step), denominator=places)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return stats


def test_heads_learn_what_is_determined() -> None:
    policy = MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))

    def counting(seed: int) -> Sample:
        return chain([(seed + at) % V for at in range(16)], [0] * 4 + [1] * 12)

    tokens = torch.tensor([counting(seed).tokens for seed in range(V)])
    trunk = [p for name, p in policy.named_parameters() if not name.startswith("model.mtp.")]
    optimiser = torch.optim.AdamW(trunk, lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(policy(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.02, "the source must be nearly determined"
    kinds = (HeadLossKind.soft_cross_entropy, HeadLossKind.e2e_tv)
    stats = train_heads(policy, counting, 80, lambda step: kinds[step >= 40])
    for name, share in stats.metrics().items():
        assert share > 0.97, name


def test_heads_of_a_uniform_source_are_accepted_when_drawn_and_not_when_chosen() -> None:
    policy = MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))
    with torch.no_grad():
        policy.model.norm.weight.zero_()  # all of the policy's logits are 0
        policy.lm_head.weight.mul_(4.0)
    generator = torch.Generator().manual_seed(0)

    def random(_: int) -> Sample:
        return chain(torch.randint(0, V, (16,), generator=generator).tolist(), [0] * 4 + [1] * 12)

    before = train_heads(policy, random, 1, lambda _: HeadLossKind.soft_cross_entropy).metrics()
    after = train_heads(policy, random, 120, lambda _: HeadLossKind.soft_cross_entropy).metrics()
    for head in range(3):
        assert before[f"head_{head}_overlap"] < 0.8 < 0.95 < after[f"head_{head}_overlap"]
        assert after[f"head_{head}_one_hot"] == pytest.approx(1 / V, abs=1e-6)
