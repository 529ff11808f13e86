"""Optimisers: who trains what, the same steps after a resume, and two steps that do not touch each other."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from envfarm_rl.trainer.optimisers import OptimiserConfig, Optimisers, group_parameters, schedule

from envfarm.core.errors import TrainerError

CONFIG = MiMoConfig(
    vocab_size=31, hidden_size=24, intermediate_size=32, moe_intermediate_size=12, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=1, swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=12,
    v_head_dim=8, sliding_window=5, n_routed_experts=4, num_experts_per_tok=2, num_nextn_predict_layers=2,
    hybrid_layer_pattern=(GLOBAL, WINDOW),
)  # fmt: skip
RATES = OptimiserConfig(lr=1e-2, lr_heads=1e-2, warmup=3, decay_from=6, total=12)


def fresh() -> MiMo:
    return MiMo(CONFIG).initialise(torch.Generator().manual_seed(3))


def backward(policy: MiMo, step: int, scale: float = 1.0) -> None:
    """A gradient for every parameter, heads too."""
    tokens = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(step))
    hidden = policy.trunk(tokens).hidden
    loss = torch.nn.functional.cross_entropy(policy.logits(hidden)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    positions = torch.arange(9).expand(2, 9)
    for head in policy.heads:
        loss = loss + head(hidden.detach(), policy.embed(tokens).detach(), positions).square().mean()
    (scale * loss).backward()


def test_every_parameter_is_trained_by_one_optimiser() -> None:
    policy = fresh()
    groups = group_parameters(policy)
    parts = (groups.matrices, groups.tables, groups.vectors, groups.heads)
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(name for name, _ in policy.named_parameters())
    assert not any("e_score_correction_bias" in name for name in names)
    assert set(groups.tables) == {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight"}
    assert all(name.startswith("model.layers.") and part.ndim == 2 for name, part in groups.matrices.items())
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in groups.matrices
    assert "model.layers.1.self_attn.attention_sink_bias" in groups.vectors
    assert all(name.startswith("model.mtp.") for name in groups.heads)


def test_resumed_steps_are_the_same_to_the_bit() -> None:
    policy = fresh()
    optimisers = Optimisers(policy, RATES)
    for step in range(10):
        if step == 5:
            stored = io.BytesIO()
            torch.save({"policy": policy.state_dict(), "optimisers": optimisers.state_dict()}, stored)
        backward(policy, step)
        optimisers.step_policy(step)
        optimisers.step_heads(step)
    stored.seek(0)
    state = torch.load(stored)
    resumed = MiMo(CONFIG)
    resumed.load_state_dict(state["policy"])
    again = Optimisers(resumed, RATES)
    again.load_state_dict(state["optimisers"])
    for step in range(5, 10):
        backward(resumed, step)
        again.step_policy(step)
        again.step_heads(step)
    start = fresh().state_dict()
    for name, value in policy.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
        assert torch.equal(value, start[name]) == name.endswith("e_score_correction_bias"), name


def test_without_the_optimisers_state_a_resume_is_noticed() -> None:
    def run(forget: bool) -> torch.Tensor:
        policy = fresh()
        optimisers = Optimisers(policy, RATES)
        for step in range(4):
            if forget and step == 2:
                optimisers = Optimisers(policy, RATES)
            backward(policy, step)
            optimisers.step_policy(step)
        return policy.model.layers[0].self_attn.q_proj.weight.detach()  # pyright: ignore

    assert not torch.equal(run(False), run(True))


def test_policy_and_heads_step_apart() -> None:
    policy = fresh()
    optimisers = Optimisers(policy, RATES)
    heads = {name for name, _ in policy.named_parameters() if name.startswith("model.mtp.")}
    for step, others in ((optimisers.step_policy, heads), (optimisers.step_heads, None)):
        before = copy.deepcopy(policy.state_dict())
        backward(policy, 1)
        step(0)
        changed = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
        assert changed and (not changed & heads if others else changed <= heads)


@pytest.mark.parametrize(("scale", "kept"), [(1e3, 1.0), (1e-3, None)])
def test_a_large_gradient_is_clipped_and_its_norm_is_told(scale: float, kept: float | None) -> None:
    policy = fresh()
    backward(policy, 0, scale)
    optimisers = Optimisers(policy, RATES)
    norm = optimisers.step_policy(3)
    state = optimisers.state_dict()
    # After one step the first moments are the gradients that were used, times 1 - beta.
    moments = [each["momentum_buffer"] / (1 - RATES.momentum) for each in state["matrices"]["state"].values()]
    moments += [each["exp_avg"] / (1 - RATES.betas[0]) for each in state["rest"]["state"].values()]
    used = float(torch.nn.utils.get_total_norm(moments))
    assert used == pytest.approx(kept or norm, rel=1e-4)
    assert (norm > 1.0) == (kept is not None)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    policy = fresh()
    before = copy.deepcopy(policy.state_dict())
    backward(policy, 0)
    assert policy.lm_head.weight.grad is not None
    policy.lm_head.weight.grad[0, 0] = float("nan")
    with pytest.raises(TrainerError, match="the policy"):
        Optimisers(policy, RATES).step_policy(0)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_policy_without_heads_has_optimisers() -> None:
    policy = MiMo(CONFIG.model_copy(update={"num_nextn_predict_layers": 0})).initialise()
    optimisers = Optimisers(policy, RATES)
    backward(policy, 0)
    assert optimisers.step_policy(0) > 0 and set(optimisers.state_dict()) == {"matrices", "rest"}


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1 / 3), (1, 2 / 3), (2, 1.0), (5, 1.0), (6, 1.0), (9, 0.55), (12, 0.1), (99, 0.1)]
)
def test_schedule_by_hand(step: int, expected: float) -> None:
    assert schedule(step, RATES) == pytest.approx(expected)
    assert schedule(step, OptimiserConfig()) == 1.0


def test_muon_moves_a_matrix_by_what_its_rate_says() -> None:
    # Newton-Schulz leaves singular values within about .7 and 1.2, so the update's root mean square is known.
    policy = fresh()
    weight = policy.model.layers[0].self_attn.q_proj.weight  # pyright: ignore
    before = weight.detach().clone()  # pyright: ignore
    backward(policy, 0)
    Optimisers(policy, RATES).step_policy(3)
    rows, columns = before.shape
    rms = float((weight.detach() - before).square().mean().sqrt())  # pyright: ignore
    expected = 1e-2 * 0.2 * max(rows, columns) ** 0.5 * (min(rows, columns) / (rows * columns)) ** 0.5
    assert rms == pytest.approx(expected, rel=0.3)
