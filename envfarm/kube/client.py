"""``KubeClient``: JSON over a bounded pool of connections, for calls that come by the thousand."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Self

import aiohttp

from envfarm.core.errors import ClusterError, Reason

from .cluster import Cluster
from .errors import refusal
from .throttle import Throttle

JSON = "application/json"
_CONNECT_SEC = 10.0
_ANSWER_SEC = 60.0
_TRIES = 8
"""Of a call that the server refuses for load."""
_KEEP_ALIVE_SEC = 20.0
"""Idle connections go before a server or a proxy would close them under a request."""


class KubeClient:
    """An async context manager. One per event loop; a watch has a session of its own (:meth:`stream`).

    429 is waited for as the server says (``Retry-After``) and slows down all calls. Nothing else is tried again here:
    what a lost answer means is for the caller to know.
    """

    def __init__(self, cluster: Cluster, *, in_flight: int = 64, agent: str = "envfarm") -> None:
        self.cluster = cluster
        self.throttle = Throttle(in_flight)
        self.calls: dict[str, int] = {}
        """Answered requests, by method and status: ``POST 201``."""
        self._agent, self._in_flight = agent, in_flight
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            ssl=self.cluster.context or False, limit=self._in_flight, keepalive_timeout=_KEEP_ALIVE_SEC
        )
        self._session = self._made(connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _made(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SEC)
        return aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"User-Agent": self._agent, "Accept": JSON}
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        timeout_sec: float = _ANSWER_SEC,
    ) -> bytes:
        """The answer's body. ``what`` says what is tried, as ``create pods in ns-1``.

        Raises ``ClusterError``: a refusal with its ``code``, or ``cluster_unreachable`` (ambiguous: it may have had
        its effect)."""
        assert self._session is not None, "the client was not entered"
        tries = 0
        while True:
            tries += 1
            epoch = await self.throttle.enter()
            try:
                code, data, wait_sec = await self._once(method, path, what, body, query, timeout_sec)
                self.calls[f"{method} {code}"] = self.calls.get(f"{method} {code}", 0) + 1
                if code == 429:
                    self.throttle.refused(epoch)
                else:
                    self.throttle.answered()
            finally:
                self.throttle.leave()
            if code < 300:
                return data
            if code == 401 and tries == 1:
                await self.cluster.token(renew=True)
                continue
            if code != 429 or tries >= _TRIES:
                raise refusal(code, data, what)
            # together with others that were refused at the same moment it would be refused again
            await asyncio.sleep(wait_sec * (1 + random.random() / 4))

    async def _once(
        self, method: str, path: str, what: str, body: bytes | None,
        query: Mapping[str, str] | None, timeout_sec: float,
    ) -> tuple[int, bytes, float]:  # fmt: skip
        assert self._session is not None
        headers = await self._headers()
        if body is not None:
            headers["Content-Type"] = JSON
        try:
            async with (
                asyncio.timeout(timeout_sec),
                self._session.request(
                    method, self.cluster.server + path, data=body, headers=headers, params=query
                ) as answer,
            ):
                data = await answer.read()
                return answer.status, data, _retry_after(answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # the boundary to the network
            raise unreachable(self.cluster, what, error) from error

    async def _headers(self) -> dict[str, str]:
        token = await self.cluster.token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    @contextlib.asynccontextmanager
    async def stream(self, path: str, *, what: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
        """An answer that goes on, on a connection of its own: a slow reader of a shared one would be cut off, and
        would hold up calls. Raises ``ClusterError``."""
        connector = aiohttp.TCPConnector(ssl=self.cluster.context or False, limit=1)
        try:
            async with (
                self._made(connector) as session,
                session.get(
                    self.cluster.server + path, params=query, headers=await self._headers(), read_bufsize=1 << 20
                ) as answer,
            ):
                if answer.status >= 300:
                    raise refusal(answer.status, await answer.read(), what)
                yield answer.content
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # the boundary to the network
            raise unreachable(self.cluster, what, error) from error


def unreachable(cluster: Cluster, what: str, error: Exception) -> ClusterError:
    """The server gave no answer, or lost it on the way."""
    return ClusterError(
        f"The cluster at {cluster.server} gave no answer to: {what}.",
        reason=Reason.cluster_unreachable, phase=what.split()[0], retryable=True, detail=repr(error),
        remedy="Check that its API server runs and can be reached from here.",
    )  # fmt: skip


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "1")))
    except ValueError:  # a date, as proxies write it
        return 1.0
