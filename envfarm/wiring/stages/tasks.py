"""validate, publish: the three-state evidence, and what follows from it."""

from __future__ import annotations

import asyncio

from envfarm_verifiers.validate import finalize, validate

from envfarm.core.task import TaskKind
from envfarm.core.work import Lease, Work
from envfarm.farm.stage import Completed
from envfarm.store import Transaction

from .common import RunStage, done, rejected


class ValidateStage(RunStage):
    """base, base+tests, base+tests+gold: each at least twice."""

    name = "validate"

    async def run(self, lease: Lease) -> Completed:
        """Record the evidence; queue a valid task for publishing."""
        task = await asyncio.to_thread(self.task, lease.work.key)
        environment = await asyncio.to_thread(self.environment, lease.work.payload["environment"])
        recipe = await asyncio.to_thread(self.recipe, lease.work.payload["recipe"])
        mutant = task.kind is TaskKind.synth
        validation = await validate(
            task,
            environment,
            self.app.command(recipe),
            self.app.runner,
            self.app.blobs,
            repeats=self.plan.build.repeats,
            min_f2p=2 if mutant else 1,
            gate=not mutant,  # the stage `mutate` has looked already
        )
        if not validation.valid:

            def refuse(tx: Transaction) -> None:
                tx.put_validation(validation)
                tx.put_task(self.run_name, task, "invalid")

            reason = validation.reason or "invalid"
            return rejected(reason, validation.detail, write=refuse, cpu_sec=validation.cpu_sec)
        final = finalize(task, environment, validation)

        def write(tx: Transaction) -> None:
            tx.put_validation(validation)
            tx.put_task(self.run_name, final, "valid")

        payload = {"environment": environment.digest}
        return done(self.next_work(lease, "publish", task.id, payload), write=write, cpu_sec=validation.cpu_sec)


class PublishStage(RunStage):
    """A valid task becomes part of the data set; then it is replayed and played as the plan says."""

    name = "publish"

    async def run(self, lease: Lease) -> Completed:
        """Mark it; queue replays and rollouts."""
        key, payload = lease.work.key, lease.work.payload
        following: list[Work] = []
        for number in range(self.plan.replays):
            for stage in ("replay_gold", "replay_empty"):
                following.append(self.next_work(lease, stage, f"{key}#{number}", payload | {"task": key}))
        for policy in self.plan.policies:
            job = payload | {"task": key, "policy": policy}
            following.append(self.next_work(lease, "rollout", f"{key}#{policy}", job))
        return done(*following, write=lambda tx: tx.publish(self.run_name, key))
