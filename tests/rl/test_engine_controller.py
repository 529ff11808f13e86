"""The draft length that pays is found, kept, and left when it stops paying; counts of accepted drafts add up."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from envfarm_rl.engine.acceptance import Acceptance
from envfarm_rl.engine.controller import DraftLength


class World:
    """Steps that cost ``1 + slope * k`` (``slope`` by size of batch), and drafts accepted at a rate."""

    def __init__(self, slope: float, rate: float, noise: float = 0.05, seed: int = 0) -> None:
        self.slope, self.rate, self.noise = slope, rate, noise
        self.random = random.Random(seed)

    def seconds(self, k: int) -> float:
        usual = (1 + self.slope * k) * (1 + self.random.uniform(-self.noise, self.noise))
        return usual * (10 if self.random.random() < 0.01 else 1)

    def run(self, subject: DraftLength, steps: int, batch: int = 8) -> list[int]:
        chosen = []
        for _ in range(steps):
            k = subject.choose(batch)
            chosen.append(k)
            seen = Acceptance(3)
            accepted = [self._accepted(k) for _ in range(batch)]
            seen.count(torch.full((batch,), k), torch.tensor(accepted))
            subject.observe(batch, k, self.seconds(k), seen)
        return chosen

    def _accepted(self, k: int) -> int:
        count = 0
        while count < k and self.random.random() < self.rate:
            count += 1
        return count

    def speed(self, k: int) -> float:
        return sum(self.rate**i for i in range(k + 1)) / (1 + self.slope * k)

    def share(self, chosen: list[int]) -> float:
        """Speed over that of the best fixed length: tokens over time, both expected."""
        tokens = sum(self.speed(k) * (1 + self.slope * k) for k in chosen)
        return tokens / sum(1 + self.slope * k for k in chosen) / max(map(self.speed, range(4)))


class Loaded(World):
    """On a machine that others use too: all steps take up to four times as long, for a while."""

    load = 1.0

    def seconds(self, k: int) -> float:
        if self.random.random() < 0.02:
            self.load = self.random.choice((1, 1, 1.5, 2, 4))
        return super().seconds(k) * self.load * (1 + self.random.random() ** 4)


@pytest.mark.parametrize("slope", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8, 0.95])
def test_the_length_that_pays_is_found_and_seldom_left(slope: float, rate: float) -> None:
    world = World(slope, rate)
    subject = DraftLength(3)
    world.run(subject, 100)
    assert world.share(world.run(subject, 4000)) >= 0.95


@pytest.mark.parametrize("slope", [0.7, 1.0])
def test_where_drafts_never_pay_little_is_lost(slope: float) -> None:
    world = World(slope, 0.1)
    subject = DraftLength(3)
    chosen = world.run(subject, 5000)
    assert sum(k > 0 for k in chosen) / len(chosen) <= 0.02
    assert world.share(chosen) >= 0.98


@pytest.mark.parametrize("slope", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_busy_machine_changes_little_of_the_choice(slope: float, rate: float) -> None:
    world = Loaded(slope, rate)
    subject = DraftLength(3)
    world.run(subject, 1000)
    assert world.share(world.run(subject, 3000)) >= 0.9


def test_a_length_far_too_long_is_not_even_tried() -> None:
    subject = DraftLength(3)
    assert max(World(2.0, 0.1).run(subject, 3000)) == 1


def test_better_heads_and_other_costs_are_noticed() -> None:
    subject = DraftLength(3)
    World(0.2, 0.1).run(subject, 2000)
    assert World(0.2, 0.1).run(subject, 200).count(0) > 190
    subject.renew()
    better = World(0.2, 0.95)
    better.run(subject, 3000)
    assert better.share(better.run(subject, 1000)) >= 0.95
    subject.renew()
    dearer = World(1.5, 0.95)
    dearer.run(subject, 3000)
    assert dearer.share(dearer.run(subject, 1000)) >= 0.95


def test_each_size_of_batch_has_its_own() -> None:
    subject = DraftLength(3)
    cheap, dear = World(0.05, 0.7), World(1.0, 0.7)
    for _ in range(300):
        cheap.run(subject, 2, batch=2)
        dear.run(subject, 2, batch=64)
    assert cheap.run(subject, 100, batch=2).count(3) > 90
    assert dear.run(subject, 100, batch=64).count(0) > 90


def test_nearly_equal_lengths_do_not_alternate() -> None:
    world = World(0.5, 0.5, noise=0.1)
    subject = DraftLength(3)
    world.run(subject, 300)
    chosen = world.run(subject, 3000)
    assert sum(a != b for a, b in itertools.pairwise(chosen)) < 150


def test_the_state_goes_through_json_and_goes_on_the_same() -> None:
    one, two = DraftLength(3), DraftLength(3)
    World(0.2, 0.6).run(one, 500)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert World(0.3, 0.7, seed=5).run(one, 500) == World(0.3, 0.7, seed=5).run(two, 500)


def test_counts_by_hand() -> None:
    subject = Acceptance(3)
    # all accepted; refused at once; one accepted; k = 1 taken; k = 0; ended by a stop within its drafts
    subject.count(torch.tensor([3, 3, 3, 1, 0, 2]), torch.tensor([3, 0, 1, 1, 0, 2]))
    subject.emitted += 4 + 1 + 2 + 2 + 1 + 2
    assert (subject.offered, subject.reached, subject.kept) == ([5, 4, 3], [5, 3, 1], [4, 2, 1])
    assert subject.accepted_length == 2.0
    assert subject.survival == (0.8, 0.5, 1 / 3) and subject.conditional == (0.8, 2 / 3, 1.0)


def test_counts_add_up_and_are_plain() -> None:
    one, two, both = Acceptance(2), Acceptance(2), Acceptance(2)
    one.count(torch.tensor([2, 2]), torch.tensor([1, 2]))
    two.count(torch.tensor([2]), torch.tensor([0]))
    both.count(torch.tensor([2, 2, 2]), torch.tensor([1, 2, 0]))
    one.merge(two)
    assert one.state_dict() == both.state_dict()
    three = Acceptance(2)
    three.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert three.state_dict() == one.state_dict()
    assert Acceptance(2).accepted_length == 0.0 and Acceptance(2).survival == (0.0, 0.0)
