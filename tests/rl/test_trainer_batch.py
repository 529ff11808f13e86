"""Groups to batches: masking by outcome, every episode accounted for, nothing silent."""

from __future__ import annotations

from collections import Counter

import pytest
from envfarm_rl.algorithms.advantages import AdvantageKind
from envfarm_rl.samples import Episode, EpisodeGroup, Outcome, Sample
from envfarm_rl.trainer.batch import UNSCORABLE, Batch, make_batch
from envfarm_rl.trainer.source import choose_tasks, refill
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.errors import TrainerError

PASS, FAIL, INFRA = Outcome.passed, Outcome.failed, Outcome.infra


def episode(
    outcome: Outcome, *, reason: str = "", version: int = 0, reward: float | None = None, index: int = 0
) -> Episode:
    sample = Sample((1, 2), (False, True), (0.0, -0.5), (-1, version), (None, None))
    return Episode("t", index, (sample,), outcome, float(outcome is PASS) if reward is None else reward, reason)


def group(*outcomes: Outcome) -> EpisodeGroup:
    return EpisodeGroup("t", tuple(episode(outcome) for outcome in outcomes))


def batch(*groups: EpisodeGroup, oldest: int = 0) -> Batch:
    return make_batch(groups, kind=AdvantageKind.dr_grpo, oldest=oldest)


def test_masked_episodes_count_for_nothing() -> None:
    with_fault, without = batch(group(PASS, FAIL, INFRA, FAIL)), batch(group(PASS, FAIL, FAIL))
    assert with_fault.samples == without.samples and with_fault.advantages == without.advantages
    assert with_fault.advantages == pytest.approx((2 / 3, -1 / 3, -1 / 3))
    assert with_fault.accounts.masked == {"infra": 1} and with_fault.accounts.scored == 3


def test_what_the_policy_can_cause_scores_as_failure() -> None:
    found = batch(group(PASS, Outcome.truncated))
    assert found.advantages == (0.5, -0.5) and found.accounts.truncated == 1


def test_every_episode_is_in_one_account() -> None:
    episodes = [
        episode(PASS), episode(FAIL), episode(FAIL, version=1), episode(INFRA, reason="box_lost"),
        episode(INFRA, reason=UNSCORABLE), episode(Outcome.cancelled), episode(PASS, version=1),
    ]  # fmt: skip
    found = batch(EpisodeGroup("t", tuple(episodes)), oldest=1).accounts
    assert found.masked == {"infra:box_lost": 1, "cancelled": 1, "stale": 2}
    assert (found.launched, found.scored, found.unscorable, found.passed) == (7, 2, 1, 1)


def test_groups_without_a_comparison_are_dropped_and_without_a_difference_skipped() -> None:
    found = batch(group(PASS, INFRA), group(PASS, PASS), group(FAIL, FAIL), group(PASS, FAIL))
    metrics = found.accounts.metrics()
    assert len(found.samples) == 2 and found.skipped == ""
    assert (metrics["groups"], metrics["groups_dropped"], metrics["groups_zero_variance"]) == (4, 1, 2)
    assert metrics["solve_all"] == metrics["solve_none"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([group(INFRA, INFRA)], "all_masked"),
        ([group(PASS, INFRA)], "all_dropped"),
        ([group(PASS, PASS), group(FAIL, INFRA)], "no_signal"),
    ],
)
def test_a_batch_that_teaches_nothing_says_why(groups: list[EpisodeGroup], why: str) -> None:
    found = batch(*groups)
    assert found.skipped == why and found.samples == () == found.advantages


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused_even_where_it_would_not_count(reward: float) -> None:
    for outcome in (PASS, INFRA):
        with pytest.raises(TrainerError, match="not all rewards are finite"):
            batch(EpisodeGroup("t", (episode(outcome, reward=reward), episode(INFRA))))


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(TrainerError, match="no groups"):
        batch()
    with pytest.raises(TrainerError, match="empty"):
        batch(EpisodeGroup("t", ()))


@given(st.lists(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=5), min_size=1, max_size=5))
def test_accounts_add_up(outcomes: list[list[Outcome]]) -> None:
    found = batch(*(group(*each) for each in outcomes))
    accounts = found.accounts
    assert accounts.scored + sum(accounts.masked.values()) + accounts.unscorable == accounts.launched
    assert accounts.launched == sum(map(len, outcomes))
    assert sum(found.advantages) == pytest.approx(0.0, abs=1e-9)
    assert bool(found.samples) != bool(found.skipped)


async def test_masked_episodes_are_run_again_within_bounds() -> None:
    async def attempt(index: int) -> Episode:
        return episode(INFRA if index < 3 else PASS, index=index)

    assert [e.outcome for e in await refill(attempt, 4, retries=9)] == [INFRA] * 3 + [PASS] * 4
    assert [e.outcome for e in await refill(attempt, 4, retries=1)] == [INFRA] * 3 + [PASS] * 2
    assert [e.index for e in await refill(attempt, 4, retries=9)] == list(range(7))


def test_tasks_come_in_whole_passes_that_differ() -> None:
    tasks = [str(number) for number in range(6)]
    steps = [choose_tasks(tasks, 4, step=step, seed=1) for step in range(6)]
    served = [task for step in steps for task in step]
    passes = [served[start : start + 6] for start in range(0, 24, 6)]
    assert all(Counter(each) == Counter(tasks) for each in passes)
    assert len({tuple(each) for each in passes}) > 1
    assert choose_tasks(tasks, 4, step=3, seed=1) == steps[3] != choose_tasks(tasks, 4, step=3, seed=2)
