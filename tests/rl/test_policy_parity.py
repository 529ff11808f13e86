"""The policy computes what ``transformers``' port of the released model computes."""

from __future__ import annotations

import pytest
import torch
import transformers
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from torch import Tensor

SHAPE = dict(
    vocab_size=97, hidden_size=64, intermediate_size=96, moe_intermediate_size=48, num_attention_heads=8,
    num_key_value_heads=2, head_dim=24, v_head_dim=16, n_routed_experts=8, num_experts_per_tok=2,
)  # fmt: skip
LENGTH = 40


def port(pattern: tuple[int, ...], experts: tuple[int, ...], window: int):
    """A model of ``transformers`` with random weights, sinks and selection bias."""
    config = transformers.MiMoV2FlashConfig(
        **SHAPE,
        num_hidden_layers=len(pattern),
        sliding_window=window,
        layer_types=["sliding_attention" if kind == WINDOW else "full_attention" for kind in pattern],
        mlp_layer_types=["sparse" if each else "dense" for each in experts],
        attn_implementation="eager",
    )
    model = transformers.MiMoV2FlashForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" not in name:
                tensor.normal_(0.0, 1.0 if "sinks" in name else 0.3, generator=generator)
    return model


def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The port's fused names and tensors as a checkpoint has them."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        base, _, last = name.rpartition("experts.")
        if last == "gate_up_proj":
            for index, both in enumerate(tensor):
                gate, up = both.chunk(2)
                found[f"{base}experts.{index}.gate_proj.weight"] = gate
                found[f"{base}experts.{index}.up_proj.weight"] = up
        elif last == "down_proj":
            found |= {f"{base}experts.{index}.down_proj.weight": each for index, each in enumerate(tensor)}
        else:
            found[name.replace("self_attn.sinks", "self_attn.attention_sink_bias")] = tensor
    return found


CASES = {
    "mixed": ((GLOBAL, WINDOW, WINDOW, GLOBAL), (0, 1, 1, 1), 8, True),
    "window only, past the window": ((WINDOW, WINDOW, WINDOW), (0, 1, 0), 8, True),
    "global only": ((GLOBAL, GLOBAL), (0, 1), 8, True),
    "within the window": ((GLOBAL, WINDOW), (0, 1), 64, True),
    "own key beside the window": ((GLOBAL, WINDOW), (0, 1), 9, False),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_port(case: str) -> None:
    pattern, experts, window, with_self = CASES[case]
    reference = port(pattern, experts, window)
    config = MiMoConfig(
        **SHAPE,
        num_hidden_layers=len(pattern),
        swa_num_attention_heads=8,
        swa_num_key_value_heads=4,
        sliding_window=window if with_self else window - 1,
        window_includes_self=with_self,
        hybrid_layer_pattern=pattern,
        moe_layer_freq=experts,
        num_nextn_predict_layers=0,
    )
    policy = MiMo(config)
    policy.load_state_dict(released(reference.state_dict()))
    tokens = torch.randint(0, 97, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = reference(tokens).logits, policy(tokens)
    assert expected.abs().max() > 1.0, "weights so small that any error would pass"
    assert (expected - found).abs().max() <= 1e-4


def test_a_window_of_another_width_is_noticed() -> None:
    reference = port((GLOBAL, WINDOW), (0, 1), 8)
    config = MiMoConfig(
        **SHAPE, num_hidden_layers=2, swa_num_attention_heads=8, swa_num_key_value_heads=4, sliding_window=9,
        hybrid_layer_pattern=(GLOBAL, WINDOW), moe_layer_freq=(0, 1), num_nextn_predict_layers=0,
    )  # fmt: skip
    policy = MiMo(config)
    policy.load_state_dict(released(reference.state_dict()))
    tokens = torch.randint(0, 97, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (reference(tokens).logits - policy(tokens)).abs().max() > 1e-3
