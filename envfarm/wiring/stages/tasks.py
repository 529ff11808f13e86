"""validate, publish: the three-state evidence, and what follows from it."""

from __future__ import annotations

import asyncio

from envfarm_verifiers.validate import SharedState, finalize, validate

from envfarm.core.errors import BuilderError, Tier, VerifierError
from envfarm.core.task import TaskKind
from envfarm.core.work import Lease, Work
from envfarm.farm.stage import Completed
from envfarm.store import Transaction

from .common import RunStage, done, rejected
from .synth import SynthStage


class ValidateStage(SynthStage):
    """base, base+tests, base+tests+gold: each at least twice. The last is the same tree for all mutants of a revision:
    its runs are shared."""

    name = "validate"

    def __post_init__(self) -> None:
        """Runs of healthy revisions, by environment and commit."""
        self._healthy: dict[tuple[str, str], SharedState] = {}

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
            after=self._healthy.setdefault((environment.digest, task.base_commit), SharedState()) if mutant else None,
        )

        def refuse(tx: Transaction) -> None:
            tx.put_validation(validation)
            tx.put_task(self.run_name, task, "invalid")

        if not validation.valid:
            reason = validation.reason or "invalid"
            return rejected(reason, validation.detail, write=refuse, cpu_sec=validation.cpu_sec)
        if mutant:
            try:
                task = await asyncio.to_thread(self.hide_failing, lease.work.payload, task, validation)
            except BuilderError as error:  # the boundary of one mutant: its tests cannot be taken out of the tree
                return rejected("cannot_hide", error.message, write=refuse, cpu_sec=validation.cpu_sec)
        final = finalize(task, environment, validation)

        def write(tx: Transaction) -> None:
            tx.put_validation(validation)
            tx.put_task(self.run_name, final, "valid")

        payload = {"environment": environment.digest}
        return done(self.next_work(lease, "publish", task.id, payload), write=write, cpu_sec=validation.cpu_sec)


class PublishStage(RunStage):
    """A valid task that can be graded becomes part of the data set; then it is replayed and played as the plan says.

    The grader's look at it comes before all that: replays of one task would only wait for each other's.
    """

    name = "publish"

    async def run(self, lease: Lease) -> Completed:
        """Let the grader see it; mark it; queue replays and rollouts."""
        key, payload = lease.work.key, lease.work.payload
        task = await asyncio.to_thread(self.task, key)
        environment = await asyncio.to_thread(self.environment, payload["environment"])
        try:
            cpu_sec = await self.app.grader.prepare(task, environment)
        except VerifierError as error:
            if error.tier is not Tier.task:
                raise
            return rejected(str(error.reason), str(error), write=lambda tx: tx.put_task(self.run_name, task, "invalid"))
        following: list[Work] = []
        for number in range(self.plan.replays):
            for stage in ("replay_gold", "replay_empty"):
                following.append(self.next_work(lease, stage, f"{key}#{number}", payload | {"task": key}))
        for policy in self.plan.policies:
            job = payload | {"task": key, "policy": policy}
            following.append(self.next_work(lease, "rollout", f"{key}#{policy}", job))
        return done(*following, write=lambda tx: tx.publish(self.run_name, key), cpu_sec=cpu_sec)
