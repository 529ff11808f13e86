"""replay_gold, replay_empty, rollout: published tasks under the grader and under policies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from envfarm.core.ids import stable_seed
from envfarm.core.rollout import StopReason, Submission
from envfarm.core.verdict import Outcome
from envfarm.core.work import Lease
from envfarm.farm.stage import Completed
from envfarm.rollout.minimal import MinimalHarness
from envfarm.rollout.play import Player
from envfarm.store import Transaction

from ..policies import make_policy
from .common import RunStage, done, rejected


@dataclass
class ReplayStage(RunStage):
    """One independent pass of one task: the gold patch must pass, the empty one must not."""

    gold: bool = True

    @property
    def name(self) -> str:
        """``replay_gold`` or ``replay_empty``."""
        return "replay_gold" if self.gold else "replay_empty"

    async def run(self, lease: Lease) -> Completed:
        """Grade in a fresh box, past the verdict cache."""
        task = await asyncio.to_thread(self.task, lease.work.payload["task"])
        environment = await asyncio.to_thread(self.environment, lease.work.payload["environment"])
        patch = (await asyncio.to_thread(self.app.blobs.get, task.gold_patch)).decode() if self.gold else ""
        submission = Submission(task_id=task.id, task_digest=task.digest, patch=patch)
        verdict = await self.app.regrader.grade(task, environment, submission)
        cpu_sec = verdict.report.cpu_sec if verdict.report else 0.0
        if verdict.passed is not self.gold:
            reason = f"{verdict.outcome}_{verdict.reason}"
            return rejected(
                reason, str(verdict.evidence)[:2000], write=lambda tx: tx.put_verdict(verdict), cpu_sec=cpu_sec
            )
        return done(write=lambda tx: tx.put_verdict(verdict), detail=verdict.reason, cpu_sec=cpu_sec)


class RolloutStage(RunStage):
    """A policy plays a task through the rollout path."""

    name = "rollout"

    async def run(self, lease: Lease) -> Completed:
        """Play and grade. Solved or not is data in the rollout, not an outcome of the stage."""
        payload = lease.work.payload
        task = await asyncio.to_thread(self.task, payload["task"])
        environment = await asyncio.to_thread(self.environment, payload["environment"])
        seed = stable_seed(self.plan.seed, task.id, payload["policy"])
        policy = await asyncio.to_thread(make_policy, payload["policy"], task, self.app.blobs, seed=seed)
        player = Player(
            provider=self.app.provider,
            harness=MinimalHarness(),
            verifier=self.app.grader,
            blobs=self.app.blobs,
            limits=self.app.config.limits,
            owner=self.run_name,
        )
        rollout = await player.play(task, environment, policy, seed=seed)
        # named by the item, so that playing it again after a crash replaces the rollout and never adds one
        rollout = rollout.model_copy(update={"id": f"{self.run_name}.{lease.work.key}"})

        def write(tx: Transaction) -> None:
            tx.put_rollout(self.run_name, rollout)

        verdict = rollout.verdict
        if rollout.stop is StopReason.infrastructure or (verdict and verdict.outcome is Outcome.unscorable):
            return rejected("masked", rollout.error or (verdict.reason if verdict else ""), write=write)
        return done(write=write, detail=str(verdict.outcome) if verdict else "")
