"""N workers in this process over one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from envfarm.core.config import BuildConfig
from envfarm.core.work import Lease
from envfarm.store.queue import Queue

from .stage import Stage
from .worker import Worker, WorkEvent
from .workers import is_dead, worker_name


async def run_workers(
    queue: Queue,
    run_name: str,
    stages: Mapping[str, Stage],
    config: BuildConfig,
    *,
    on_start: Callable[[Lease], None] | None = None,
    on_event: Callable[[WorkEvent], None] | None = None,
) -> None:
    """Run ``config.workers`` workers until the run has nothing left. Cancelling hands every lease back.

    What workers held that died on this machine is due at once, and first. A worker's own failure (the store is gone,
    say) ends all of them and is raised.
    """
    await asyncio.to_thread(queue.reclaim, run_name, is_dead)
    async with asyncio.TaskGroup() as group:
        for index in range(config.workers):
            worker = Worker(
                queue=queue,
                run_name=run_name,
                stages=stages,
                name=worker_name(index),
                lease_sec=config.lease_sec,
                max_attempts=config.max_attempts,
                on_start=on_start,
                on_event=on_event,
            )
            group.create_task(worker.work())
