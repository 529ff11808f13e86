"""Groups of agent episodes for a trainer: an engine's policies, played by whoever has the tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from envfarm.core.ports import Policy, RolloutSource
from envfarm.core.rollout import Rollout, StopReason
from envfarm.core.verdict import Outcome as Judged

from .agent import EnginePolicy, Generates
from .engine.embedded import EmbeddedEngine
from .engine.service import EngineService
from .samples import Episode, EpisodeGroup, Outcome
from .trainer.batch import UNSCORABLE
from .trainer.source import refill


class EpisodePlayer(Protocol):
    """Plays one episode of a task with a policy to its outcome."""

    async def play(self, task: str, policy: Policy, *, seed: int) -> tuple[Outcome, str]:
        """Outcome, and for masked and truncated ones the reason."""
        ...

    async def close(self) -> None:
        """End what it started."""
        ...


class FarmPlayer:
    """Episodes in real boxes, graded: the farm's rollouts, their ends read as training's outcomes."""

    def __init__(self, source: RolloutSource) -> None:
        self._source = source

    async def play(self, task: str, policy: Policy, *, seed: int) -> tuple[Outcome, str]:
        """See the port."""
        return outcome(await self._source.rollout(task, policy, seed=seed))

    async def close(self) -> None:
        """Nothing: the farm is its owner's."""


_TRUNCATED = (StopReason.turn_limit, StopReason.time_limit, StopReason.context_limit)


def outcome(rollout: Rollout) -> tuple[Outcome, str]:
    """How an episode ended, and why where it is masked or was cut short. Masked are only faults of the
    infrastructure, and what no grader could judge; a cut-off episode that passes all the same has passed."""
    verdict = rollout.verdict
    if rollout.stop is StopReason.infrastructure or verdict is None:
        return Outcome.infra, "box"
    if verdict.outcome is Judged.unscorable:
        return Outcome.infra, UNSCORABLE
    if verdict.passed:
        return Outcome.passed, ""
    return (Outcome.truncated, str(rollout.stop)) if rollout.stop in _TRUNCATED else (Outcome.failed, "")


class AgentSource:
    """Satisfies ``EpisodeSource``. All episodes of a step run at once; the engine answers them in rounds, so that what
    they draw does not depend on who is quicker. ``make(engine, task, key, seed)`` gives an episode's policy; a masked
    episode is replaced by another, up to ``retries`` in each group."""

    def __init__(
        self,
        *,
        engine: EmbeddedEngine,
        tasks: Sequence[str],
        player: EpisodePlayer,
        make: Callable[[Generates, str, str, int], EnginePolicy],
        retries: int = 2,
        concurrency: int = 1024,
    ) -> None:
        self._engine, self._player, self._make = engine, player, make
        self._retries, self._concurrency = retries, concurrency
        self.tasks: Sequence[str] = tasks

    async def collect(self, tasks: Sequence[str], group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        """See the port."""
        service, slots = EngineService(self._engine), asyncio.Semaphore(self._concurrency)

        async def group(place: int, task: str) -> EpisodeGroup:
            async def attempt(index: int) -> Episode:
                async with slots:
                    return await self._episode(service, task, index, f"{step:06}.{place:04}.{index:04}", seed)

            return EpisodeGroup(task, await refill(attempt, group_size, retries=self._retries))

        async with asyncio.TaskGroup() as running:
            waiting = [running.create_task(group(place, task)) for place, task in enumerate(tasks)]
        return [each.result() for each in waiting]

    async def _episode(self, service: EngineService, task: str, index: int, key: str, seed: int) -> Episode:
        policy = self._make(service, task, key, seed)
        try:
            async with service.episode(key):
                ended, reason = await self._player.play(task, policy, seed=policy.seed)
        finally:
            self._engine.forget(key)
        samples = (policy.chain.sample(),) if policy.chain.trained else ()
        return Episode(task, index, samples, ended, 1.0 if ended is Outcome.passed else 0.0, reason)

    async def close(self) -> None:
        """End what the player started."""
        await self._player.close()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: tasks and draws follow from the step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""
