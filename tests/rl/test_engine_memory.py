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


def made(rows: int = 3, *, spare: int = SPARE, slots: int = 8) -> Memory:
    return Memory(CONFIG, rows, spare=spare, heads=3, slots=slots)


def step(policy: MiMo, memory: Memory, tokens: Tensor, starts: Tensor | int, counts: Tensor | None = None) -> Tensor:
    rows, length = tokens.shape
    starts = starts if isinstance(starts, Tensor) else torch.full((rows,), starts)
    positions = memory.begin(0, starts, torch.full((rows,), length) if counts is None else counts)
    hidden = policy.trunk(tokens, positions, memory.trunk).hidden
    memory.remember(hidden)
    return hidden


@pytest.mark.parametrize("pieces", [(30,), (1,) * 30, (17, 1, 4, 1, 7), (3, 13, 14)])
def test_any_pieces_give_what_one_pass_gives(policy: MiMo, pieces: tuple[int, ...]) -> None:
    tokens = sequences(30)
    memory, start, found = made(), 0, []
    for length in pieces:
        found.append(step(policy, memory, tokens[:, start : start + length], start))
        start += length
    assert (torch.cat(found, 1) - policy.trunk(tokens).hidden).abs().max() <= 1e-5


def test_after_a_rejection_nothing_tells_that_there_were_drafts(policy: MiMo) -> None:
    tokens, drafts = sequences(40), sequences(SPARE, 3)
    memory = made()
    step(policy, memory, tokens[:, :12], 0)
    lengths = torch.full((3,), 12)
    generator = torch.Generator().manual_seed(0)
    while int(lengths.min()) < 30:
        kept = torch.randint(1, SPARE + 1, (3,), generator=generator)
        positions = lengths[:, None] + torch.arange(SPARE)
        right = tokens.gather(1, positions)
        tried = torch.where(torch.arange(SPARE) < kept[:, None], right, drafts)
        found = step(policy, memory, tried, lengths)
        for row in range(3):
            fresh = policy.trunk(torch.cat((tokens[row, : lengths[row]], tried[row]))[None]).hidden[0]
            assert (found[row] - fresh[-SPARE:]).abs().max() <= 1e-5
        lengths = lengths + kept


def test_padding_is_never_seen(policy: MiMo) -> None:
    tokens = sequences(20)
    memory = made()
    lengths = torch.tensor([20, 13, 4])
    step(policy, memory, tokens, 0, lengths)
    following = sequences(1)
    found = step(policy, memory, following, lengths)
    for row, length in enumerate(lengths.tolist()):
        fresh = policy.trunk(torch.cat((tokens[row, :length], following[row]))[None]).hidden[0, -1]
        assert (found[row, 0] - fresh).abs().max() <= 1e-5


def test_a_ring_too_short_for_its_drafts_is_noticed(policy: MiMo) -> None:
    tokens = sequences(40)
    memory = made(spare=0)
    step(policy, memory, tokens[:, :20], 0)
    step(policy, memory, tokens[:, 30:34], 20)
    found = step(policy, memory, tokens[:, 20:21], 20)[:, 0]
    assert (found - policy.trunk(tokens[:, :21]).hidden[:, -1]).abs().max() > 1e-3


def test_heads_step_by_step_give_what_one_pass_gives(policy: MiMo) -> None:
    tokens = sequences(24)
    hidden = policy.trunk(tokens).hidden
    for index, head in enumerate(policy.heads):
        memory = made()
        length = 24 - 1 - index
        embedded = policy.embed(tokens[:, 1 + index :])
        whole = head(hidden[:, :length], embedded, torch.arange(length).expand(3, length))
        parts = []
        for at in range(length):
            step(policy, memory, tokens[:, at : at + 1], at)
            positions, states = memory.begin_head(0, torch.full((3,), at), torch.ones(3, dtype=torch.long))
            parts.append(head(states, embedded[:, at : at + 1], positions, memory.heads[index]))
        assert (torch.cat(parts, 1) - whole).abs().max() <= 1e-5


def test_a_head_that_was_not_run_catches_up_with_its_window(policy: MiMo) -> None:
    tokens = sequences(40)
    hidden = policy.trunk(tokens).hidden
    memory = made()
    lengths = torch.tensor([39, 22, 3]) - 1
    starts = (lengths - CONFIG.window).clamp_min(0)
    step(policy, memory, tokens[:, :38], 0, lengths)
    positions, states = memory.begin_head(0, starts, lengths - starts)
    embedded = policy.embed(tokens.gather(1, positions + 1))
    found = policy.heads[0](states, embedded, positions, memory.heads[0])
    whole = policy.heads[0](hidden[:, :39], policy.embed(tokens[:, 1:]), torch.arange(39).expand(3, 39))
    for row, (length, start) in enumerate(zip(lengths.tolist(), starts.tolist(), strict=True)):
        assert start < length and (found[row, -1] - whole[row, length - 1]).abs().max() <= 1e-5
    memory.begin_head(0, starts, lengths - starts)
    last = policy.heads[0](states, embedded, positions, memory.heads[0], last=True)
    assert (last - found[:, -1:]).abs().max() <= 1e-5


def test_rows_move_and_are_worked_on_alone(policy: MiMo) -> None:
    tokens = sequences(20)
    memory = made()
    step(policy, memory, tokens[:, :19], 0)
    memory.move(torch.tensor([2]), torch.tensor([0]))
    found = step(policy, memory, tokens[[2, 1], 19:], 19)[:, 0]
    assert (found - policy.trunk(tokens[[2, 1]]).hidden[:, -1]).abs().max() <= 1e-5


@pytest.mark.parametrize("length", [3, 19])
def test_what_is_saved_goes_on_in_another_memory(policy: MiMo, length: int) -> None:
    tokens = sequences(20)
    memory, other = made(), made()
    step(policy, memory, tokens[:, :length], 0)
    for target, source in enumerate([2, 0, 1]):
        other.load(target, length, memory.save(source, length))
    found = step(policy, other, tokens[[2, 0, 1], length:], length)
    assert (found - policy.trunk(tokens[[2, 0, 1]]).hidden[:, length:]).abs().max() <= 1e-5


def test_bytes_equal_the_formula_and_window_layers_stay_constant(policy: MiMo) -> None:
    sizes = []
    for length in (64, 32768):
        memory = made(1, slots=length)
        assert memory.bytes == memory_bytes(CONFIG, length, spare=SPARE, heads=3, element_bytes=4)
        sizes.append([layer.keys[:, :, :-1].numel() for layer in (*memory.trunk, *memory.heads)])
    short, long = sizes
    assert [b // a for a, b in zip(short, long, strict=True)] == [512, 1, 1, 512, 1, 1, 1]


def test_the_released_models_need() -> None:
    # Nine global layers of 4 heads with 192 + 128 elements for each token: 11,520; 3 MTP heads and 39 window layers of
    # 8 such heads for 128 + 3 tokens, and as many states of width 4,096.
    found = memory_bytes(MiMoConfig(), 32768, spare=3, heads=3)
    assert found == 2 * (32768 * 11520 + 42 * 8 * 320 * 131 + 131 * 4096)
    assert memory_bytes(MiMoConfig(), 32768, spare=0, heads=0) == 2 * (32768 * 11520 + 39 * 8 * 320 * 128)
