"""A proxy before the API server that breaks what passes, by a seed: lost answers, refusals, cut and silent watches."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from envfarm.kube.cluster import Cluster


class FaultProxy:
    """Plain http on loopback in front of ``cluster``; forwards with its credentials. ``rates`` give the chance of each
    fault for each request: ``lost`` (it has its effect, the answer is not sent), ``early`` (refused before it has any),
    ``busy`` (429 with Retry-After), ``failed`` (500 after its effect), ``gone`` (a watch answers 410), ``cut`` (a watch
    ends within a line), ``silent`` (a watch says nothing more), ``slow``."""

    def __init__(self, cluster: Cluster, seed: int, **rates: float) -> None:
        self._cluster, self._rates = cluster, rates
        self._random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.retry_after: list[tuple[str, float]] = []
        """Calls that were told to wait 0.2 s, and when."""
        self.calls: list[tuple[str, float]] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._cluster.context or False, limit=200),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]
        self.cluster = Cluster(f"http://127.0.0.1:{port}", None, lambda: "")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._runner.cleanup()

    def _hits(self, *faults: str) -> str:
        for fault in faults:
            if self._random.random() < self._rates.get(fault, 0.0):
                self.injected[fault] += 1
                return fault
        return ""

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        key = f"{request.method} {request.path} {body[:80]!r}"
        now = asyncio.get_running_loop().time()
        self.calls.append((key, now))
        watching = request.query.get("watch") == "1"
        fault = (
            self._hits("gone", "cut", "silent", "early")
            if watching
            else self._hits("busy", "early", "lost", "failed", "slow")
        )
        if fault == "gone":
            line = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n'
            return web.Response(body=line, content_type="application/json")
        if fault == "busy":
            self.retry_after.append((key, now))
            return web.json_response({"code": 429, "message": "busy"}, status=429, headers={"Retry-After": "0.2"})
        if fault == "early":
            return self._hang_up(request)
        headers = {"Authorization": f"Bearer {await self._cluster.token()}", "Accept": "application/json"}
        if "Content-Type" in request.headers:
            headers["Content-Type"] = request.headers["Content-Type"]
        url = self._cluster.server + request.rel_url.raw_path_qs
        async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
            if watching and answer.status == 200:
                return await self._stream(request, answer, fault)
            data = await answer.read()
            if fault == "lost":
                return self._hang_up(request)
            if fault == "failed":
                return web.json_response({"code": 500, "message": "injected"}, status=500)
            if fault == "slow":
                await asyncio.sleep(0.2)
            return web.Response(body=data, status=answer.status, content_type="application/json")

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse, fault: str) -> web.StreamResponse:
        made = web.StreamResponse()
        await made.prepare(request)
        left = self._random.randrange(200, 20_000) if fault in ("cut", "silent") else -1
        with contextlib.suppress(ConnectionError):  # whoever listened has left
            async for chunk in answer.content.iter_any():
                if 0 <= left <= len(chunk):
                    await made.write(chunk[:left])
                    if fault == "silent":
                        await asyncio.sleep(60)
                    return self._hang_up(request)
                left -= len(chunk) if left >= 0 else 0
                await made.write(chunk)
        return made

    @staticmethod
    def _hang_up(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
