"""A box in a Pod as callers see it: the agent's client, with what only the cluster knows of the box's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from envfarm.core.box import Limits
from envfarm.core.errors import Reason, SandboxError, Tier
from envfarm.kube.slim import Pod
from envfarm.sandbox.client import AgentSandbox, Connect
from envfarm.sandbox.explained import ExplainedSandbox

from .events import evidence

_TOLD_SEC = 3.0
"""How long the cluster may take to say why a box has ended."""


class PodSandbox(ExplainedSandbox):
    """Satisfies ``envfarm.core.ports.Sandbox``. ``pod`` gives the Pod as the cluster told it last."""

    def __init__(self, name: str, connect: Connect, token: str, limits: Limits, pod: Callable[[], Pod | None]) -> None:
        super().__init__(AgentSandbox(name, connect, token, {"fsize_bytes": limits.file_size_mb << 20}))
        self._pod = pod
        self.beat = self._agent.beat
        self.shutdown = self._agent.shutdown

    async def _cause(self) -> SandboxError | None:
        for _ in range(int(_TOLD_SEC / 0.05)):
            pod = self._pod()
            if pod is None or pod.ended:
                return self._told(evidence(pod) if pod is not None else "deleted")
            await asyncio.sleep(0.05)
        return None

    def _told(self, why: str) -> SandboxError:
        reason, tier, remedy = {
            "oom": (Reason.memory_limit, Tier.policy, "Raise limits.memory_mb if the task needs more."),
            "deadline": (Reason.wall_limit, Tier.ambiguous, "Raise limits.wall_sec if the task needs longer."),
            "evicted": (Reason.node, Tier.environment, ""),
            "preempted": (Reason.node, Tier.environment, ""),
            "node": (Reason.node, Tier.environment, ""),
        }.get(why, (Reason.box_lost, Tier.ambiguous, ""))
        return SandboxError(
            f"The box {self.id} has ended: {why}.", reason=reason, phase="run", tier=tier, remedy=remedy
        )
