"""Works on a run to its end: in this process alone or with a rollout actor, which it replaces when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from envfarm.core.errors import TrainerError
from envfarm.telemetry.training import Status, masked_episodes, read_metrics

from ..policy import MiMo
from ..trainer.checkpoint import LATEST
from ..trainer.config import TrainConfig
from ..trainer.run import RolloutSide, Run
from ..trainer.source import Rollouts

Say = Callable[[str], None]

RESTARTS = 3
"""In a row without a new checkpoint: after that the actor's death is not bad luck."""
_POLL_SEC = 0.5


async def work(folder: Path, config: TrainConfig, *, actors: bool, say: Say) -> Status:
    """Run to the last step, saying on the way what happens. Raises as ``Run.run``.

    With ``actors``, inside ``ray_actors.cluster()``: when the actor's process dies, a new one takes its place, and the
    run goes on from its last stable checkpoint.
    """
    rollouts = _actor_maker(say) if actors else Rollouts
    async with _narrated(folder, say):
        because, deaths, reached = "", 0, ""
        while True:
            try:
                return await Run(folder, config, rollouts=rollouts).run(resume=True, because=because)
            except TrainerError as error:
                deaths = deaths + 1 if _latest(folder) == reached else 1
                if not error.retryable or deaths > RESTARTS:
                    raise
                because, reached = error.message, _latest(folder)
                then = f"Going on from {reached}." if reached else "Starting again: there is no checkpoint yet."
                say(f"{because} {then}")


def placement(config: TrainConfig, *, actors: bool) -> dict[str, Any]:
    """What a run would start: its processes, each with device and threads. Nothing is started."""
    device, threads = config.policy.device, torch.get_num_threads()
    if not actors:
        return {"processes": [{"does": ["training", "rollouts"], "device": device, "threads": threads}]}
    return {
        "processes": [{"does": ["training"], "device": device, "threads": threads}],
        "actors": [{"does": ["rollouts"], "device": device, "cpus": 1, "gpus": int(device != "cpu")}],
    }


def progress_line(record: dict[str, Any]) -> str:
    """A step's record in one line."""
    parts = [
        f"step {record['step'] + 1}",
        f"reward {record['reward']:.3f}",
        f"pass@1 {100 * record['pass_at_1']:.1f} %",
        f"{record['response_tokens']:.1f} tokens",
        f"accepted {record['accepted_length']:.2f}",
        f"{record['tokens_per_sec']['rollout']:,.0f} tokens/s",
    ]
    if masked := masked_episodes(record):
        parts.append(f"masked {masked} of {record['launched']}")
    if record["skipped"]:
        parts.append(f"skipped: {record['skipped']}")
    return "  ".join(parts)


def _actor_maker(say: Say) -> Callable[[TrainConfig, MiMo], RolloutSide]:
    # only here: whoever trains in one process needs no Ray
    from .ray_actors import ActorRollouts

    def make(config: TrainConfig, policy: MiMo) -> ActorRollouts:
        made = ActorRollouts(config, policy)
        say(f"The rollout actor is process {made.pid}.")
        return made

    return make


@asynccontextmanager
async def _narrated(folder: Path, say: Say) -> AsyncIterator[None]:
    """Say each step that is logged while the block runs."""
    _, place = read_metrics(folder)

    def tell() -> None:
        nonlocal place
        records, place = read_metrics(folder, place)
        for record in records:
            say(progress_line(record))

    async def poll() -> None:
        while True:
            await asyncio.sleep(_POLL_SEC)
            tell()

    polling = asyncio.create_task(poll())
    try:
        yield
    finally:
        polling.cancel()
        tell()


def _latest(folder: Path) -> str:
    """Name of the newest checkpoint that was committed; empty before there is one."""
    path = folder / "checkpoints" / LATEST
    return path.read_text("utf-8").strip() if path.is_file() else ""
