"""The smallest environment: repeat the digits of the prompt. For tests of the whole line, and a check of a set-up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from ..chains.session import Session
from ..engine.embedded import EmbeddedEngine
from ..engine.requests import Request
from ..engine.sampling import Sampling
from ..samples import Episode, EpisodeGroup, Outcome
from .source import draw_seed

ASK = 0
"""The token that ends a prompt; digit d is token d + 1."""


class Digits:
    """Tasks are ``"012"`` and so on: all ``length`` digits to the given base, or the first ``count`` of a shuffle. An
    episode passes if the policy, which may emit digits alone, emits those of its prompt in their order."""

    def __init__(
        self, *, engine: EmbeddedEngine, sampling: Sampling, base: int = 4, length: int = 2, count: int = 0
    ) -> None:
        self._engine, self._sampling = engine, sampling
        self._support = tuple(range(1, base + 1))
        every = ["".join(map(str, digits)) for digits in product(range(base), repeat=length)]
        every.sort(key=lambda task: draw_seed("digits", task))
        self.tasks: Sequence[str] = every[: count or None]

    async def collect(self, tasks: Sequence[str], group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        """See ``EpisodeSource``."""
        requests = [
            Request(
                prompt=(*encode(task), ASK),
                max_tokens=len(task),
                sampling=self._sampling,
                constraint=self,
                seed=draw_seed(seed, step, place, index),
            )
            for place, task in enumerate(tasks)
            for index in range(group_size)
        ]
        emissions = await asyncio.to_thread(self._engine.generate, requests)
        episodes: list[Episode] = []
        for number, (request, emission) in enumerate(zip(requests, emissions, strict=True)):
            task = tasks[number // group_size]
            session = Session()
            session.turn(request.prompt, emission)
            outcome = grade(task, emission.tokens)
            reward = 1.0 if outcome is Outcome.passed else 0.0
            episodes.append(Episode(task, number % group_size, session.samples(), outcome, reward))
        return [
            EpisodeGroup(task, tuple(episodes[place * group_size : (place + 1) * group_size]))
            for place, task in enumerate(tasks)
        ]

    def allowed(self, emitted: Sequence[int]) -> tuple[int, ...]:
        """See ``Constraint``: digits."""
        return self._support

    def state_dict(self) -> dict[str, Any]:
        """Nothing: tasks are drawn by the step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""

    async def close(self) -> None:
        """Nothing to end."""


def encode(task: str) -> tuple[int, ...]:
    """Tokens of the digits."""
    return tuple(int(digit) + 1 for digit in task)


def grade(task: str, emitted: Sequence[int]) -> Outcome:
    """Whether the digits are those of the task; one that ran out of context handed nothing in."""
    if len(emitted) < len(task):
        return Outcome.truncated
    return Outcome.passed if tuple(emitted) == encode(task) else Outcome.failed
