"""``ExplainedSandbox``: the agent's client, with what only the box's provider can know of its end."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from envfarm.core.box import ExecRequest, ExecResult, FileStat
from envfarm.core.errors import EnvfarmError, Reason, SandboxError
from envfarm.core.ports import OutputSink

from .client import AgentSandbox


class ExplainedSandbox(ABC):
    """Satisfies ``envfarm.core.ports.Sandbox``. A provider's own kind says in :meth:`_cause` what a box died of."""

    def __init__(self, agent: AgentSandbox) -> None:
        self._agent = agent

    @property
    def id(self) -> str:
        """The box's name."""
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

    @abstractmethod
    async def _cause(self) -> SandboxError | None:
        """Why the box is lost; None where that is not known."""

    @contextlib.asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        try:
            yield
        except EnvfarmError as error:
            # boundary: only the provider knows what a lost box died of
            if error.reason is Reason.box_lost and (cause := await self._cause()):
                raise cause from error
            raise
