"""Advantages against tables computed by hand, and the properties that a baseline must have."""

from __future__ import annotations

import math

import pytest
from envfarm_rl.algorithms.advantages import AdvantageKind, advantages
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.errors import TrainerError

ROOT3 = math.sqrt(3)
TABLE = {
    # Rewards 1, 0, 0, 0: mean 1/4, standard deviation sqrt(3)/4.
    AdvantageKind.dr_grpo: (0.75, -0.25, -0.25, -0.25),
    AdvantageKind.grpo: (ROOT3, -1 / ROOT3, -1 / ROOT3, -1 / ROOT3),
    AdvantageKind.rloo: (1.0, -1 / 3, -1 / 3, -1 / 3),
    AdvantageKind.max_rl: (3.0, -1.0, -1.0, -1.0),
}
REWARDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=9)


@pytest.mark.parametrize("kind", AdvantageKind)
def test_values_by_hand(kind: AdvantageKind) -> None:
    found = advantages([1.0, 0.0, 0.0, 0.0], [True] * 4, kind)
    assert found.values == pytest.approx(TABLE[kind], abs=1e-5)
    assert (found.valid, found.zero_variance) == (4, False)


@pytest.mark.parametrize("kind", AdvantageKind)
@given(rewards=REWARDS, masked=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0, 7.0])), max_size=4))
def test_masked_rollouts_change_nothing_and_the_sum_is_zero(
    kind: AdvantageKind, rewards: list[float], masked: list[tuple[int, float]]
) -> None:
    alone = advantages(rewards, [True] * len(rewards), kind)
    assert sum(alone.values) == pytest.approx(0.0, abs=1e-9)
    marked = [(reward, True) for reward in rewards]
    for at, reward in masked:
        marked.insert(at, (reward, False))
    both = advantages([reward for reward, _ in marked], [valid for _, valid in marked], kind)
    kept = [value for value, (_, valid) in zip(both.values, marked, strict=True) if valid]
    assert kept == list(alone.values) and both.valid == alone.valid
    assert sum(abs(v) for v, (_, valid) in zip(both.values, marked, strict=True) if not valid) == 0


@given(rewards=REWARDS, shift=st.floats(-3, 3))
def test_a_shift_of_all_rewards_changes_nothing(rewards: list[float], shift: float) -> None:
    valid = [True] * len(rewards)
    for kind in (AdvantageKind.dr_grpo, AdvantageKind.rloo):
        moved = advantages([reward + shift for reward in rewards], valid, kind)
        assert moved.values == pytest.approx(advantages(rewards, valid, kind).values, abs=1e-9)


@given(rewards=REWARDS.filter(lambda rewards: len(rewards) > 1))
def test_leave_one_out_is_what_its_name_says(rewards: list[float]) -> None:
    found = advantages(rewards, [True] * len(rewards), AdvantageKind.rloo).values
    others = [(sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]
    assert found == pytest.approx([reward - mean for reward, mean in zip(rewards, others, strict=True)], abs=1e-9)


@pytest.mark.parametrize("kind", AdvantageKind)
@pytest.mark.parametrize(
    ("rewards", "valid", "count"),
    [
        ([1.0, 1.0], [True, True], 2),
        ([0.0, 0.0, 0.0], [True] * 3, 3),
        ([1.0, 0.0], [True, False], 1),
        ([1.0, 0.0], [False, False], 0),
        ([0.1] * 3, [True] * 3, 3),  # the mean of equal rewards may differ from them by rounding
    ],
)
def test_groups_without_signal_give_zeros_and_say_so(
    kind: AdvantageKind, rewards: list[float], valid: list[bool], count: int
) -> None:
    found = advantages(rewards, valid, kind)
    assert found.values == (0.0,) * len(rewards)
    assert (found.valid, found.zero_variance) == (count, True)


@pytest.mark.parametrize("rewards", [[], [1.0, math.nan], [math.inf, 0.0]])
def test_what_has_no_advantages_is_refused(rewards: list[float]) -> None:
    with pytest.raises(TrainerError):
        advantages(rewards, [True] * len(rewards))


def test_max_rl_takes_no_negative_rewards() -> None:
    with pytest.raises(TrainerError):
        advantages([-1.0, 1.0], [True, True], AdvantageKind.max_rl)
