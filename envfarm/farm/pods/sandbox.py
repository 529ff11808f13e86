"""A box in a Pod as callers see it: the agent's client, with what only the cluster knows of the box's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from envfarm.core.box import ExecRequest, ExecResult, FileStat, Limits
from envfarm.core.errors import EnvfarmError, Reason, SandboxError, Tier
from envfarm.core.ports import OutputSink
from envfarm.kube.slim import Pod
from envfarm.sandbox.client import AgentSandbox, Connect

from .events import evidence

_TOLD_SEC = 3.0
"""How long the cluster may take to say why a box has ended."""


class PodSandbox:
    """Satisfies ``envfarm.core.ports.Sandbox``. ``pod`` gives the Pod as the cluster told it last."""

    def __init__(self, name: str, connect: Connect, token: str, limits: Limits, pod: Callable[[], Pod | None]) -> None:
        self._limits, self._pod = limits, pod
        self._agent = AgentSandbox(name, connect, token, {"fsize_bytes": limits.file_size_mb << 20})
        self.beat = self._agent.beat
        self.shutdown = self._agent.shutdown

    @property
    def id(self) -> str:
        """The Pod's name."""
        return self._agent.id

    async def exec(
        self, request: ExecRequest, *, stdin: bytes | None = None, on_output: OutputSink | None = None
    ) -> ExecResult:
        """See the port."""
        async with self._explained():
            return await self._agent.exec(request, stdin=stdin, on_output=on_output)

    async def put(self, path: str, archive: bytes) -> None:
        """See the port."""
        async with self._explained():
            await self._agent.put(path, archive)

    async def get(self, path: str, *, limit_bytes: int = 256 << 20) -> bytes:
        """See the port."""
        async with self._explained():
            return await self._agent.get(path, limit_bytes=limit_bytes)

    async def stat(self, path: str) -> FileStat | None:
        """See the port."""
        async with self._explained():
            return await self._agent.stat(path)

    @contextlib.asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        try:
            yield
        except EnvfarmError as error:
            # boundary: only the cluster knows what a lost box died of
            if error.reason is Reason.box_lost and (cause := await self._cause()):
                raise cause from error
            raise

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
