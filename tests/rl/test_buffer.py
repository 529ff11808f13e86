"""Pacing: never further ahead than staleness allows, nothing lost, nothing twice, first in first out."""

from __future__ import annotations

import pytest
from envfarm_rl.samples import EpisodeGroup
from envfarm_rl.trainer.buffer import Buffer
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule


def batch(number: int) -> tuple[EpisodeGroup, ...]:
    return (EpisodeGroup(str(number), ()),)


class Pacing(RuleBasedStateMachine):
    """Batches in any order of completion, steps, and kills: a model of plain sets beside the buffer."""

    @initialize(staleness=st.integers(0, 1))
    def begin(self, staleness: int) -> None:
        self.staleness, self.buffer = staleness, Buffer(staleness)
        self.running: set[int] = set()
        self.born: dict[int, int] = {}
        self.consumed: list[int] = []

    @precondition(lambda self: self.buffer.room > 0)
    @rule()
    def launch(self) -> None:
        number = self.buffer.launch()
        assert number not in self.running
        self.running.add(number)
        self.born[number] = self.buffer.done

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(number)
        self.buffer.finish(number, batch(number))

    @precondition(lambda self: self.buffer.ready and len(self.consumed) == self.buffer.done)
    @rule()
    def take(self) -> None:
        (group,) = self.buffer.take()
        self.consumed.append(int(group.task))

    @precondition(lambda self: len(self.consumed) > self.buffer.done)
    @rule()
    def advance(self) -> None:
        assert self.buffer.done - self.born[self.consumed[-1]] <= self.staleness
        self.buffer.advance()

    @precondition(lambda self: len(self.consumed) == self.buffer.done)
    @rule()
    def die_and_resume(self) -> None:
        state = self.buffer.state_dict()
        self.buffer = Buffer(self.staleness)
        self.buffer.load_state_dict(state)
        kept = [int(group.task) for (group,) in state["finished"]]
        assert kept == list(range(self.buffer.done, self.buffer.done + len(kept)))
        self.running.clear()

    @invariant()
    def consumed_in_order_once(self) -> None:
        assert self.consumed == list(range(len(self.consumed)))

    @invariant()
    def within_capacity(self) -> None:
        assert 0 <= self.buffer.room <= self.staleness + 1
        assert len(self.running) <= self.staleness + 1


TestPacing = Pacing.TestCase
TestPacing.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_staleness_0_takes_turns() -> None:
    buffer = Buffer(0)
    number = buffer.launch()
    assert buffer.room == 0
    buffer.finish(number, batch(number))
    buffer.take()
    assert buffer.room == 0, "the next batch waits for the new weights"
    buffer.advance()
    assert buffer.room == 1


@pytest.mark.parametrize("number", [1, -1])
def test_a_batch_that_was_not_launched_is_refused(number: int) -> None:
    buffer = Buffer(0)
    buffer.launch()
    with pytest.raises(AssertionError, match="does not run"):
        buffer.finish(number, batch(number))
