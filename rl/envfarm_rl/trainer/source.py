"""Where episodes come from: the port that sources satisfy, and the rollout side of a run around one."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from envfarm.core.errors import ConfigError, Reason

from ..engine.acceptance import Acceptance
from ..engine.embedded import EmbeddedEngine
from ..policy import MiMo
from ..samples import Episode, EpisodeGroup
from .config import TrainConfig, locate


class EpisodeSource(Protocol):
    """Runs episodes with the engine it was made with: ``factory(engine=..., sampling=..., **options)``."""

    @property
    def tasks(self) -> Sequence[str]:
        """Ids of the tasks to train on, in a fixed order."""
        ...

    async def collect(self, tasks: Sequence[str], group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        """A group for each of ``tasks``, in their order, of ``group_size`` episodes and those that replaced masked
        ones. What happens depends on the arguments, the engine's weights and :meth:`state_dict` alone."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs (a curriculum, say), as plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...

    async def close(self) -> None:
        """End what it has started: boxes, say."""
        ...


async def refill(attempt: Callable[[int], Awaitable[Episode]], group_size: int, *, retries: int) -> tuple[Episode, ...]:
    """Episodes 0, 1, ... of a group, side by side: for those that were masked, up to ``retries`` more are run.
    Masked ones stay in the group, so that all that was launched is accounted for."""
    episodes: list[Episode] = []
    missing = group_size
    while missing > 0:
        first = len(episodes)
        episodes += await asyncio.gather(*(attempt(index) for index in range(first, first + missing)))
        missing = min(group_size - sum(not episode.outcome.masked for episode in episodes), retries)
        retries -= missing
    return tuple(episodes)


def draw_seed(*parts: object) -> int:
    """A seed of 63 bits out of whatever names the draw."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Collected:
    """What the rollout side gives for a step."""

    groups: tuple[EpisodeGroup, ...]
    acceptance: dict[str, Any]
    """Counts of :class:`Acceptance` over the rollouts of this batch."""
    seconds: float


class Rollouts:
    """An engine with its own copy of the policy, and a source of episodes that uses it. All that a step asks of it is
    plain data, so it may as well live in another process."""

    def __init__(self, config: TrainConfig, policy: MiMo) -> None:
        engine = config.engine
        self._config = config
        self._engine = EmbeddedEngine(
            copy.deepcopy(policy).requires_grad_(False), max_context=engine.max_context, max_draft=engine.max_draft,
            adaptive=engine.adaptive, max_batch=engine.max_batch,
        )  # fmt: skip
        factory = locate(config.source.path)
        try:
            self._source: EpisodeSource = factory(
                engine=self._engine, sampling=config.sampling, **config.source.options
            )
        except TypeError as error:  # the boundary to a source of the user's own: unknown or missing options
            raise ConfigError(
                f"The source {config.source.path} cannot be made: {error}.",
                reason=Reason.config,
                phase="config",
                remedy="Look at source.options.",
            ) from error

    async def collect(self, step: int) -> Collected:
        """The batch of ``step``."""
        config, began = self._config, time.perf_counter()
        self._engine.acceptance = Acceptance(config.engine.max_draft)
        tasks = choose_tasks(self._source.tasks, config.rollout.groups, step=step, seed=config.run.seed)
        groups = await self._source.collect(tasks, config.rollout.group_size, step=step, seed=config.run.seed)
        return Collected(tuple(groups), self._engine.acceptance.state_dict(), time.perf_counter() - began)

    async def update(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Roll out with these from now on. Between batches only."""
        self._engine.update_weights(version, weights)

    async def state_dict(self) -> dict[str, Any]:
        """Of engine and source, as plain values."""
        return copy.deepcopy({"engine": self._engine.state_dict(), "source": self._source.state_dict()})

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._engine.load_state_dict(state["engine"])
        self._source.load_state_dict(state["source"])

    async def close(self) -> None:
        """End what the source has started."""
        await self._source.close()


def choose_tasks(tasks: Sequence[str], count: int, *, step: int, seed: int) -> list[str]:
    """The tasks of a step: passes over all of them one after the other, each in an order of its own. A function of
    the step, so that a resumed run goes on where it was."""
    chosen: list[str] = []
    for place in range(step * count, (step + 1) * count):
        order = list(tasks)
        random.Random(draw_seed("tasks", seed, place // len(tasks))).shuffle(order)
        chosen.append(order[place % len(tasks)])
    return chosen
