"""Keys and values: step by step as at once, after a rejection as never drafted, constant where the window is."""

from __future__ import annotations

import pytest
import torch
from envfarm_rl.engine.memory import Memory, memory_bytes
from envfarm_rl.policy import GLOBAL, WINDOW, MiMo, MiMoConfig
from torch import Tensor

CONFIG = MiMoConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=1, swa_num_attention_heads=4, swa_num_key_value_heads=2, head_dim=12,
    v_head_dim=8, sliding_window=5, n_routed_experts=4, num_experts_per_tok=2, initializer_range=0.12,
    hybrid_layer_pattern=(GLOBAL, WINDOW, WINDOW, GLOBAL),
)  # fmt: skip
SPARE = 4


@pytest.fixture(scope="module")
def policy() -> MiMo:
    return MiMo(CONFIG).initialise(torch.Generator().manual_seed(3)).requires_grad_(False)


def sequences(length: int, batch: int = 3) -> Tensor:
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(length))


def step(policy: MiMo, memory: Memory, tokens: Tensor, start: int) -> Tensor:
    positions = torch.arange(start, start + tokens.shape[1]).expand(tokens.shape)
    return policy.trunk(tokens, positions, memory.trunk).hidden


@pytest.mark.parametrize("pieces", [(30,), (1,) * 30, (17, 1, 4, 1, 7), (3, 13, 14)])
def test_any_pieces_give_what_one_pass_gives(policy: MiMo, pieces: tuple[int, ...]) -> None:
    tokens = sequences(30)
    memory, start, found = Memory(CONFIG, 3, spare=SPARE, slots=8), 0, []
    for length in pieces:
        found.append(step(policy, memory, tokens[:, start : start + length], start))
        start += length
    assert (torch.cat(found, 1) - policy.trunk(tokens).hidden).abs().max() <= 1e-5


def test_after_a_rejection_nothing_tells_that_there_were_drafts(policy: MiMo) -> None:
    tokens, drafts = sequences(40), sequences(SPARE, 3)
    memory = Memory(CONFIG, 3, spare=SPARE, slots=8)
    step(policy, memory, tokens[:, :12], 0)
    lengths = torch.full((3,), 12)
    generator = torch.Generator().manual_seed(0)
    while int(lengths.min()) < 30:
        kept = torch.randint(1, SPARE + 1, (3,), generator=generator)
        positions = lengths[:, None] + torch.arange(SPARE)
        right = tokens.gather(1, positions)
        tried = torch.where(torch.arange(SPARE) < kept[:, None], right, drafts)
        found = policy.trunk(tried, positions, memory.trunk).hidden
        for row in range(3):
            fresh = policy.trunk(torch.cat((tokens[row, : lengths[row]], tried[row]))[None]).hidden[0]
            assert (found[row] - fresh[-SPARE:]).abs().max() <= 1e-5
        lengths = lengths + kept
        memory.rewind(lengths)


def test_padding_is_never_seen(policy: MiMo) -> None:
    tokens = sequences(20)
    memory = Memory(CONFIG, 3, spare=SPARE)
    lengths = torch.tensor([20, 13, 4])
    positions = torch.arange(20).expand(3, 20)
    policy.trunk(tokens, positions.masked_fill(positions >= lengths[:, None], -1), memory.trunk)
    following = sequences(1)
    found = policy.trunk(following, lengths[:, None], memory.trunk).hidden
    for row, length in enumerate(lengths.tolist()):
        fresh = policy.trunk(torch.cat((tokens[row, :length], following[row]))[None]).hidden[0, -1]
        assert (found[row, 0] - fresh).abs().max() <= 1e-5


def test_a_ring_too_short_for_its_drafts_is_noticed(policy: MiMo) -> None:
    tokens = sequences(40)
    memory = Memory(CONFIG, 3, spare=0, slots=8)
    step(policy, memory, tokens[:, :20], 0)
    step(policy, memory, tokens[:, 30:34], 20)
    memory.rewind(torch.full((3,), 20))
    found = step(policy, memory, tokens[:, 20:21], 20)[:, 0]
    assert (found - policy.trunk(tokens[:, :21]).hidden[:, -1]).abs().max() > 1e-3


def test_heads_step_by_step_give_what_one_pass_gives(policy: MiMo) -> None:
    tokens = sequences(24)
    hidden = policy.trunk(tokens).hidden
    for index, head in enumerate(policy.heads):
        length = 24 - 1 - index
        embedded = policy.embed(tokens[:, 1 + index :])
        positions = torch.arange(length).expand(3, length)
        whole = head(hidden[:, :length], embedded, positions)
        memory = Memory(CONFIG, 3, spare=SPARE)
        parts = [
            head(hidden[:, at : at + 1], embedded[:, at : at + 1], positions[:, at : at + 1], memory.heads[index])
            for at in range(length)
        ]
        assert (torch.cat(parts, 1) - whole).abs().max() <= 1e-5


def test_sequences_are_dropped_and_reordered(policy: MiMo) -> None:
    tokens = sequences(20)
    memory = Memory(CONFIG, 3, spare=SPARE)
    step(policy, memory, tokens[:, :19], 0)
    memory.keep(torch.tensor([2, 0]))
    found = step(policy, memory, tokens[[2, 0], 19:], 19)[:, 0]
    assert (found - policy.trunk(tokens[[2, 0]]).hidden[:, -1]).abs().max() <= 1e-5


def test_bytes_equal_the_formula_and_window_layers_stay_constant(policy: MiMo) -> None:
    sizes = []
    for length in (64, 1024):
        memory = Memory(CONFIG, 1, spare=SPARE, slots=length)
        step(policy, memory, sequences(length, 1), 0)
        assert memory.bytes == memory_bytes(CONFIG, length, spare=SPARE, element_bytes=4)
        sizes.append([layer.bytes for layer in memory])
    short, long = sizes
    assert [b // a for a, b in zip(short, long, strict=True)] == [16, 1, 1, 16, 1, 1, 1]


def test_the_released_models_need() -> None:
    # Nine global layers of 4 heads with 192 + 128 elements for each token: 11,520; 3 MTP heads and 39 window layers of
    # 8 such heads for 128 + 3 tokens.
    found = memory_bytes(MiMoConfig(), 32768, spare=3)
    assert found == 2 * (32768 * 11520 + 42 * 8 * 320 * 131)
