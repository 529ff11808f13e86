"""Starting, resuming and finishing a build run: the same for ``envfarm build``, ``envfarm demo`` and the benches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from envfarm.core.errors import ConfigError, Reason
from envfarm.core.work import Lease
from envfarm.farm.pool import run_workers
from envfarm.farm.worker import WorkEvent
from envfarm.store import Store, queries

from .app import App
from .plan import RunPlan
from .stages import make_stages


def begin(store: Store, run: str, plan: RunPlan, *, resume: bool) -> RunPlan:
    """Record a new run and queue its first work; or take up an old one, with the plan it was begun with.

    Raises ``ConfigError`` for a name that is taken (without ``resume``) or unknown (with it).
    """
    known = next((row for row in queries.runs(store) if row.id == run), None)
    if known is not None and not resume:
        raise ConfigError(
            f"Run '{run}' exists already.",
            reason=Reason.usage,
            phase="begin",
            remedy="Go on with it by --resume, or name another with --run.",
        )
    if known is None and resume and not plan.repositories:
        raise ConfigError(
            f"There is no run '{run}' to resume.",
            reason=Reason.usage,
            phase="begin",
            remedy="See the dashboard or 'envfarm build --list' for the runs there are.",
        )
    if known is not None:
        plan = RunPlan.model_validate(known.config)
    else:
        with store.begin() as tx:
            tx.put_run(run, "build", plan.model_dump(mode="json"))
    # Queueing what is there already changes nothing: so a run that was cut off before this line is whole again.
    store.queue.enqueue(plan.first_work(run))
    return plan


async def work_off(
    app: App,
    run: str,
    plan: RunPlan,
    *,
    on_start: Callable[[Lease], None] | None = None,
    on_event: Callable[[WorkEvent], None] | None = None,
) -> None:
    """Run this process's workers until the run has nothing left."""
    stages = await asyncio.to_thread(make_stages, app, run, plan)
    await run_workers(app.store.queue, run, stages, plan.build, on_start=on_start, on_event=on_event)
