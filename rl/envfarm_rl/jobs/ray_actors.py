"""The rollout side of a run as a Ray actor: a process of its own, given weights through the object store."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from torch import Tensor

from envfarm.core.errors import EnvfarmError, Reason, TrainerError

from ..policy import MiMo
from ..trainer.config import TrainConfig
from ..trainer.source import Collected, Rollouts

LOCAL_CPUS = 2
LOCAL_STORE_BYTES = 200_000_000


@contextmanager
def cluster() -> Iterator[None]:
    """Ray, for this process: the cluster that ``RAY_ADDRESS`` names (in a Ray job, its own), or else one that is
    started here and ends with the block. Raises ``TrainerError`` (cluster_unreachable) where it cannot be reached."""
    own = {"num_cpus": LOCAL_CPUS, "include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(logging_level=logging.ERROR, **({} if address else own))
    except (ConnectionError, RuntimeError, RayError) as error:  # the boundary to the cluster
        raise TrainerError(
            f"Ray {f'at {address} cannot be reached' if address else 'cannot be started'}: {str(error)[:300]}",
            reason=Reason.cluster_unreachable,
            phase="ray",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class ActorRollouts:
    """See ``RolloutSide``. Where its actor's process is gone, calls raise ``TrainerError`` (retryable)."""

    pid: int
    """Of the actor's process, on whichever machine it is."""

    def __init__(self, config: TrainConfig, policy: MiMo) -> None:
        gpus = 0 if config.policy.device == "cpu" else 1
        # Ray makes its workers give way to everything else; training waits for this one.
        urgent = {"env_vars": {"RAY_worker_niceness": "0"}}
        self._actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env=urgent)(_RolloutProcess).remote()
        given = policy if config.policy.device == "cpu" else copy.deepcopy(policy).cpu()
        try:
            self.pid = _opened(ray.get(self._actor.start.remote(config, given)))
        except RayActorError as error:  # the boundary to another process, which may be killed
            raise _died("The rollout actor's process died at its start", error) from error

    async def collect(self, step: int) -> Collected:
        """See ``RolloutSide``."""
        return await self._ask("collect", step)

    async def update(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """See ``RolloutSide``."""
        stored = ray.put({name: weight.detach().cpu() for name, weight in weights.items()})
        await self._ask("update", version, stored)

    async def state_dict(self) -> dict[str, Any]:
        """See ``RolloutSide``."""
        return await self._ask("state_dict")

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``RolloutSide``."""
        await self._ask("load_state_dict", state)

    async def close(self) -> None:
        """See ``RolloutSide``. Nothing is left of the actor either."""
        with suppress(RayActorError):  # cleanup: of a process that died there is nothing to close
            _opened(await self._actor.ask.remote("close"))
        ray.kill(self._actor)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        asked = self._actor.ask.remote(method, *arguments)
        try:
            return _opened(await asked)
        except asyncio.CancelledError:
            ray.cancel(asked)  # cleanup: what it does for us over there ends as well
            raise
        except RayActorError as error:  # the boundary to another process, which may be killed
            raise _died(f"The rollout actor's process {self.pid} died", error) from error


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error on its way to the other process: exceptions with keywords of their own do not pickle."""

    kind: type[EnvfarmError]
    fields: dict[str, Any]


class _RolloutProcess:
    """In the actor's process."""

    async def start(self, config: TrainConfig, policy: MiMo) -> int | _Failed:
        """Make the rollout side; the process's id."""
        try:
            self._side = Rollouts(config, policy.to(config.policy.device))
        except EnvfarmError as error:  # the boundary of the process
            return _sealed(error)
        return os.getpid()

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of it gives."""
        try:
            return await getattr(self._side, method)(*arguments)
        except EnvfarmError as error:  # the boundary of the process
            return _sealed(error)


def _sealed(error: EnvfarmError) -> _Failed:
    return _Failed(type(error), dict(vars(error)))


def _opened(answer: Any) -> Any:
    if isinstance(answer, _Failed):
        fields = dict(answer.fields)
        raise answer.kind(fields.pop("message"), **fields)
    return answer


def _died(what: str, error: RayActorError) -> TrainerError:
    return TrainerError(f"{what}.", reason=Reason.engine_failed, phase="rollout", detail=str(error), retryable=True)
