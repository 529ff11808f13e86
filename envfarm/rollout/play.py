"""One episode from a fresh box to a verdict."""

from __future__ import annotations

from dataclasses import dataclass

from envfarm.core.box import BoxSpec, Limits
from envfarm.core.environment import Environment
from envfarm.core.ports import BlobStore, Harness, Policy, SandboxProvider, Verifier
from envfarm.core.rollout import Rollout
from envfarm.core.task import Task

from .place import place


@dataclass(frozen=True)
class Player:
    """Plays tasks: box, harness, grading, in that order; the box is gone before the verdict is asked for."""

    provider: SandboxProvider
    harness: Harness
    verifier: Verifier
    blobs: BlobStore
    limits: Limits
    owner: str = "rollout"

    async def play(self, task: Task, environment: Environment, policy: Policy, *, seed: int = 0) -> Rollout:
        """A graded rollout. It has no verdict only where it stopped for ``infrastructure``: masked, not scored."""
        sandbox = await self.provider.acquire(BoxSpec(environment=environment, limits=self.limits, owner=self.owner))
        try:
            await place(task, environment, sandbox, self.blobs)
            rollout = await self.harness.run(task, sandbox, policy, seed=seed)
        finally:
            await self.provider.release(sandbox)
        if rollout.submission is None:
            return rollout
        verdict = await self.verifier.grade(task, environment, rollout.submission)
        return rollout.model_copy(update={"verdict": verdict})
