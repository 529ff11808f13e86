"""Released layout: names, shapes, sizes; saving and loading; and what cannot be loaded says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from envfarm_rl.policy import (
    MiMo,
    MiMoConfig,
    active_parameters,
    fp8,
    from_hub,
    load_policy,
    released_layout,
    save_policy,
)

from envfarm.core.errors import ConfigError, Reason, TrainerError

from ..contract.small_disk import fill, small_disk

SMALL = MiMoConfig(
    vocab_size=64, hidden_size=160, intermediate_size=144, moe_intermediate_size=24, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=1, swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=48,
    v_head_dim=32, sliding_window=8, n_routed_experts=4, num_experts_per_tok=2, rest={"pad_token_id": 7},
)  # fmt: skip


def policy() -> MiMo:
    return MiMo(SMALL).initialise(torch.Generator().manual_seed(0))


def test_the_full_configuration_has_the_released_size_and_names() -> None:
    config = MiMoConfig()
    total, active = active_parameters(config)
    assert round(total / 1e9, 1) == 308.8 and round(active / 1e9, 1) == 15.4
    layout = released_layout(config)
    assert layout["model.layers.1.self_attn.k_proj.weight"] == ((1536, 4096), torch.float8_e4m3fn)
    assert layout["model.layers.5.self_attn.k_proj.weight_scale_inv"] == ((6, 32), torch.float32)
    assert layout["model.layers.5.self_attn.v_proj.weight"][0] == (512, 4096)
    assert layout["model.layers.0.mlp.gate_proj.weight_scale_inv"][0] == (128, 32)
    assert layout["model.layers.47.mlp.experts.255.down_proj.weight_scale_inv"][0] == (32, 16)
    assert layout["model.layers.47.mlp.gate.e_score_correction_bias"] == ((256,), torch.float32)
    assert layout["model.mtp.layers.2.eh_proj.weight"] == ((4096, 8192), torch.bfloat16)
    assert layout["model.mtp.layers.0.mlp.gate_proj.weight_scale_inv"][0] == (128, 32)
    assert layout["model.layers.1.self_attn.o_proj.weight"] == ((4096, 8192), torch.bfloat16)
    sinks = {name for name in layout if name.endswith("attention_sink_bias")}
    assert len(sinks) == 39 + 3 and "model.layers.0.self_attn.attention_sink_bias" not in sinks
    assert not any("o_proj" in name or "norm" in name or "eh_proj" in name for name in layout if "scale" in name)
    weights = {name: shape for name, (shape, _) in layout.items() if ".mtp." in name and "scale" not in name}
    mtp = sum(torch.Size(shape).numel() for shape in weights.values())
    assert round(mtp / 3e6, 1) == 329.3


def test_what_is_saved_is_loaded_to_the_bit_in_shards_too(tmp_path: Path) -> None:
    one = policy()
    for shard_bytes in (1 << 30, 100_000):
        save_policy(one, tmp_path / "checkpoint", shard_bytes=shard_bytes)
        two = load_policy(tmp_path / "checkpoint")
        assert two.config == SMALL
        for (name, left), right in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
            assert torch.equal(left, right) and left.dtype is right.dtype, name
    assert len(list((tmp_path / "checkpoint").glob("model-*.safetensors"))) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_fp8_weights_come_back_within_the_formats_precision(tmp_path: Path) -> None:
    one = policy()
    save_policy(one, tmp_path / "fp8", quantised=True)
    two = load_policy(tmp_path / "fp8", dtype=torch.float32)
    layout = released_layout(SMALL)
    for (name, left), right in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        if layout[name][1] is torch.float8_e4m3fn:
            assert 0 < (left - right).abs().max() <= 0.0625 * left.abs().max(), name
        else:
            assert torch.equal(left, right), name
    described = json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]
    assert described["weight_block_size"] == [128, 128] and len(described["ignored_layers"]) == 6


def test_scales_are_by_block_and_edges_are_kept() -> None:
    weight = torch.ones(130, 200)
    weight[128:, :128] = 300.0
    packed, scale = fp8.quantise(weight)
    assert scale.shape == (2, 2) and torch.equal(fp8.dequantise(packed, scale).round(decimals=3), weight)
    assert torch.allclose(scale, torch.tensor([[1.0, 1.0], [300.0, 1.0]]) / 448)


def edited(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


BROKEN = {
    "no folder": (lambda folder: folder.rename(folder.parent / "away"), Reason.config, "there is no"),
    "no config": (lambda folder: (folder / "config.json").unlink(), Reason.config, "there is no"),
    "no object": (lambda folder: (folder / "config.json").write_text("[]"), Reason.config, "no object"),
    "config cut": (lambda folder: (folder / "config.json").write_text("{"), Reason.config, "cannot be read"),
    "truncated": (cut, Reason.checkpoint_corrupt, "cannot be read"),
    "a shard gone": (lambda folder: (folder / "model.safetensors").unlink(), Reason.checkpoint_missing, "is not there"),
    "index cut": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("{"), Reason.checkpoint_corrupt, "index",
    ),
    "index that leads out": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}'),
        Reason.checkpoint_corrupt, "no file name",
    ),
    "another width": (lambda folder: edited(folder, intermediate_size=128), Reason.checkpoint_mismatch, "has shape"),
    "another depth": (lambda folder: edited(folder, num_hidden_layers=2, hybrid_layer_pattern=[0, 1],
                                            moe_layer_freq=[0, 1]), Reason.checkpoint_mismatch, "has not"),
    "more heads": (lambda folder: edited(folder, num_nextn_predict_layers=4), Reason.checkpoint_mismatch, "it lacks"),
    "odd rotation": (lambda folder: edited(folder, partial_rotary_factor=0.4), Reason.config, "in pairs"),
    "another router": (lambda folder: edited(folder, scoring_func="softmax"), Reason.config, "scoring_func"),
    "pattern too short": (lambda folder: edited(folder, hybrid_layer_pattern=[0]), Reason.config, "must hold 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_loaded_says_why_in_one_sentence(case: str, tmp_path: Path) -> None:
    spoil, reason, words = BROKEN[case]
    folder = tmp_path / "checkpoint"
    save_policy(policy(), folder)
    spoil(folder)
    with pytest.raises((ConfigError, TrainerError)) as caught:
        load_policy(folder)
    assert caught.value.reason is reason and words in str(caught.value) and "\n" not in caught.value.message


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = disk / "checkpoint"
        save_policy(policy(), folder)
        filler = fill(disk)
        with pytest.raises(TrainerError, match="the disk is full") as caught:
            save_policy(policy(), folder)
        assert caught.value.reason is Reason.disk_full
        filler.unlink()
        assert [path.name for path in disk.iterdir()] == ["checkpoint"]
        load_policy(folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match="cannot be saved") as caught:
        save_policy(policy(), tmp_path / "file" / "inside")
    assert caught.value.reason is Reason.checkpoint_unwritable


def test_unknown_hub_keys_are_kept_and_released_ones_understood() -> None:
    config = from_hub({
        "vocab_size": 64, "hidden_size": 160, "num_hidden_layers": 2, "hybrid_layer_pattern": [0, 1],
        "moe_layer_freq": [0, 1], "head_dim": 48, "swa_head_dim": 48, "v_head_dim": 32, "swa_v_head_dim": 32,
        "sliding_window": 128, "sliding_window_size": 128, "attention_chunk_size": 128, "routed_scaling_factor": None,
        "n_shared_experts": None, "rope_scaling": None, "hidden_act": "silu", "eos_token_id": 3,
    })  # fmt: skip
    assert config.rest["eos_token_id"] == 3 and config.routed_scaling_factor == 1.0
    assert config.num_nextn_predict_layers == 3 and config.hybrid_layer_pattern == (0, 1)
    with pytest.raises(ConfigError, match="swa_head_dim"):
        from_hub({"head_dim": 48, "swa_head_dim": 64})
