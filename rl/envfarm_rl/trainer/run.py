"""A run: rollouts and training in turn or side by side, with everything committed that a resumed run needs."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from envfarm.core.errors import ConfigError, EnvfarmError, FailureRecord, Reason, Tier, TrainerError
from envfarm.core.failpoints import failpoint
from envfarm.core.process import own_process
from envfarm.telemetry.training import State, Status

from ..engine.acceptance import Acceptance
from ..policy import MiMo
from .buffer import Buffer
from .checkpoint import Checkpoints
from .config import TrainConfig
from .metrics import Metrics, read_status, write_status
from .source import Collected, Rollouts
from .step import Trainer


class RolloutSide(Protocol):
    """What a run asks of the side that rolls out: :class:`Rollouts` is it, in this process."""

    async def collect(self, step: int) -> Collected: ...

    async def update(self, version: int, weights: Mapping[str, Tensor]) -> None: ...

    async def state_dict(self) -> dict[str, Any]: ...

    async def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    async def close(self) -> None: ...


class Run:
    """A training run in ``folder``: ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/`` and ``status.json``."""

    def __init__(
        self, folder: Path, config: TrainConfig, *, rollouts: Callable[[TrainConfig, MiMo], RolloutSide] = Rollouts
    ) -> None:
        self._folder, self._config, self._make_rollouts = folder, config, rollouts
        self._checkpoints = Checkpoints(folder / "checkpoints", keep=config.run.keep)
        self._buffer = Buffer(config.rollout.staleness)
        self._collected: dict[int, dict[str, Any]] = {}
        """Metrics of rollouts, by the step that will consume them."""
        self._settled: dict[str, Any] = {}
        """State of the rollout side when it last came to rest: a batch that is cut short leaves no trace."""
        self._saved = -1
        """Steps done at the last checkpoint."""
        self._version = self._given = 0
        """Of the trainer's weights, and of those that the rollout side has."""
        self._note = ""

    async def run(self, *, resume: bool = False, because: str = "") -> Status:
        """Run to the last step; with ``resume`` on from the newest stable checkpoint, if any was ever committed. The
        status then notes which one, and ``because`` of what.

        Raises what ended it, once ``status.json`` tells it. Cancelled (Ctrl-C), it lets an update that is under way
        come to its end, commits a checkpoint, and raises ``CancelledError``.
        """
        self._admit(resume)
        self._note = because
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tell(State.running)
            await self._start()
            try:
                await self._loop()
            except asyncio.CancelledError:
                self._commit()
                raise
            finally:
                self._metrics.close()
                await self._rollouts.close()
        except asyncio.CancelledError:
            self._tell(State.cancelled)
            raise
        except BaseException as error:  # the boundary of the process: told, and raised again
            self._tell_failure(error)
            raise
        return self._tell(State.finished)

    @property
    def policy(self) -> MiMo:
        """The policy as it is now, once the run has begun."""
        return self._trainer.policy

    def _admit(self, resume: bool) -> None:
        status = read_status(self._folder)
        if status is not None and status.alive and status.process != own_process():
            raise self._refused(f"process {status.process.pid} works on it", "Cancel that one first.")
        if status is not None and not resume:
            raise self._refused("it holds a run", "Resume it, or give another folder.")

    async def _start(self) -> None:
        found = self._checkpoints.newest()
        state = None if found is None else found.state()
        if state is not None:
            self._check(state["config"])
        policy = self._config.load_policy() if found is None else found.policy().to(self._config.policy.device)
        self._trainer = Trainer(policy, self._config)
        self._rollouts = self._make_rollouts(self._config, policy)
        if found is None or state is None:
            torch.manual_seed(self._config.run.seed)
            random.seed(self._config.run.seed)
            self._metrics = Metrics(self._folder)
        else:
            self._metrics = Metrics(self._folder, cursor=state["cursor"], step=found.step)
            self._trainer.load_state_dict(state["trainer"])
            self._version = self._trainer.version
            self._buffer.load_state_dict(state["buffer"])
            self._collected = state["collected"]
            await self._update()
            await self._rollouts.load_state_dict(state["rollouts"])
            torch.set_rng_state(state["rng"]["torch"])
            random.setstate(state["rng"]["python"])
            self._note, self._saved = f"{self._note} {found.note}".strip(), found.step
        await self._settle()

    def _check(self, saved: Mapping[str, Any]) -> None:
        own = self._config.fixed()
        differing = [
            f"{section}.{key}"
            for section in own
            for key in own[section]
            if own[section][key] != saved.get(section, {}).get(key)
        ]
        if differing:
            raise TrainerError(
                f"The checkpoint was made under another configuration: {differing[0]} differs.",
                reason=Reason.checkpoint_mismatch,
                phase="resume",
                remedy="Put the old value back, or start a new run from the checkpoint's policy.",
            )

    async def _loop(self) -> None:
        run = self._config.run
        while self._buffer.done < run.steps:
            if not self._buffer.ready:
                await self._collect()
            await self._step()
            if self._version != self._given:
                await self._update()
                await self._settle()
            if self._buffer.done % run.checkpoint_every == 0 or self._buffer.done == run.steps:
                self._commit()
            self._tell(State.running)

    async def _collect(self) -> None:
        step = self._buffer.launch()
        found = await self._rollouts.collect(step)
        await self._settle()
        self._buffer.finish(step, found.groups)
        self._collected[step] = _rollout_metrics(found, self._config.engine.max_draft)

    async def _step(self) -> None:
        """Train on the next batch; where staleness allows it, the one after is rolled out meanwhile."""
        step, groups = self._buffer.done, self._buffer.take()
        more = self._buffer.room > 0 and step + 1 < self._config.run.steps
        ahead = [asyncio.create_task(self._collect())] if more else []
        training = asyncio.create_task(asyncio.to_thread(self._trainer.step, groups))
        try:
            await asyncio.gather(asyncio.shield(training), *ahead)
        finally:
            for task in ahead:
                task.cancel()
            # An update cannot be stopped half-way: it is waited for, and counts.
            await asyncio.wait([training, *ahead])
            if training.exception() is None:
                self._log(step, training.result())

    def _log(self, step: int, trained: dict[str, Any]) -> None:
        collected = self._collected.pop(step)
        seconds = {"rollout": collected.pop("seconds"), **trained.pop("seconds")}
        tokens = {"rollout": collected["emitted"], "train": trained.get("trained_tokens", 0)}
        failpoint("train.step.before_log")
        self._metrics.log(
            {
                "step": step, **trained, **collected, "seconds": seconds,
                "tokens_per_sec": {name: count / max(seconds[name], 1e-9) for name, count in tokens.items()},
            }
        )  # fmt: skip
        self._buffer.advance()
        self._version = self._trainer.version

    async def _update(self) -> None:
        """Give the rollout side the trainer's weights."""
        await self._rollouts.update(self._version, self._trainer.policy.state_dict())
        self._given = self._version

    async def _settle(self) -> None:
        state = await self._rollouts.state_dict()
        self._settled = {
            "rollouts": state,
            "rng": {"torch": torch.get_rng_state(), "python": random.getstate()},
        }  # fmt: skip

    def _commit(self) -> None:
        done = self._buffer.done
        if done == self._saved:
            return
        self._checkpoints.save(
            done,
            self._trainer.policy,
            {
                **self._settled,
                "config": self._config.fixed(),
                "trainer": self._trainer.state_dict(),
                "buffer": self._buffer.state_dict(),
                "collected": self._collected,
                "cursor": self._metrics.sync(),
            },
        )
        self._saved = done

    def _tell(self, state: State, error: FailureRecord | None = None) -> Status:
        status = Status(
            state=state, step=self._buffer.done, steps=self._config.run.steps, version=self._version,
            process=own_process(), note=self._note, error=error,
        )  # fmt: skip
        write_status(self._folder, status)
        return status

    def _tell_failure(self, error: BaseException) -> None:
        record = FailureRecord(
            boundary="trainer", phase="run", reason=Reason.internal, tier=Tier.ambiguous,
            message=f"{type(error).__name__}: {error}", detail="".join(traceback.format_exception(error))[-8000:],
        )  # fmt: skip
        # Where the disk is full, what ended the run is raised all the same, and its process is seen to be gone.
        with suppress(TrainerError):
            self._tell(State.failed, error.record() if isinstance(error, EnvfarmError) else record)

    def _refused(self, why: str, remedy: str) -> ConfigError:
        return ConfigError(
            f"No run can start in {self._folder}: {why}.", reason=Reason.usage, phase="train", remedy=remedy
        )


def _rollout_metrics(found: Collected, max_draft: int) -> dict[str, Any]:
    acceptance = Acceptance(max_draft)
    acceptance.load_state_dict(found.acceptance)
    return {
        "emitted": acceptance.emitted,
        "verifications": acceptance.verifications,
        "accepted_length": acceptance.accepted_length,
        "draft_survival": list(acceptance.survival),
        "draft_conditional": list(acceptance.conditional),
        "seconds": found.seconds,
    }
