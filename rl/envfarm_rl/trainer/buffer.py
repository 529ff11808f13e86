"""Pacing: how far rollouts may run ahead of training, and in which order batches are consumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from typing import Any

from ..samples import EpisodeGroup


class Buffer:
    """Batches of groups, one for each step, between rollouts and training.

    With v steps done, at most ``staleness + v + 1`` batches may have been launched (AReaL, arXiv 2505.24298): running,
    finished and consumed ones together. So none is older than ``staleness`` steps when it is consumed, and none has to
    be thrown away. They are consumed whole and in the order of their launch: to take what is finished first would
    favour short episodes.
    """

    def __init__(self, staleness: int) -> None:
        self._staleness = staleness
        self.done = 0
        """Steps done, v."""
        self._launched = self._consumed = 0
        self._finished: dict[int, tuple[EpisodeGroup, ...]] = {}

    @property
    def room(self) -> int:
        """Batches that may be launched now."""
        return self._staleness + self.done + 1 - self._launched

    @property
    def ready(self) -> bool:
        """Whether the next batch is complete."""
        return self._consumed in self._finished

    def launch(self) -> int:
        """The number of a batch that starts now, the step that will consume it. Only where there is room."""
        assert self.room > 0, "rollouts would run too far ahead"
        self._launched += 1
        return self._launched - 1

    def finish(self, number: int, groups: Sequence[EpisodeGroup]) -> None:
        """Give back a batch that was launched."""
        running = self._consumed <= number < self._launched and number not in self._finished
        assert running, f"batch {number} does not run"
        self._finished[number] = tuple(groups)

    def take(self) -> tuple[EpisodeGroup, ...]:
        """The next batch. Only when ready."""
        groups = self._finished.pop(self._consumed)
        self._consumed += 1
        return groups

    def advance(self) -> None:
        """The step of the batch taken last is done, whether it trained or was skipped."""
        assert self.done < self._consumed, "a step consumes a batch"
        self.done += 1

    def state_dict(self) -> dict[str, Any]:
        """Between steps: what is finished. What still runs, and all after it, is launched anew by whoever goes on."""
        finished = takewhile(self._finished.__contains__, count(self._consumed))
        return {"done": self.done, "finished": [self._finished[number] for number in finished]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.done = self._consumed = state["done"]
        self._finished = dict(enumerate(state["finished"], self._consumed))
        self._launched = self._consumed + len(self._finished)
