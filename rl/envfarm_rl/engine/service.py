"""One engine for many episodes at once: their requests are gathered into batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from .requests import Emission, Request


class BatchEngine(Protocol):
    """What the service needs of an engine."""

    def check(self, request: Request) -> None:
        """Raises ``EngineError`` for a request that cannot be run at all."""
        ...

    def generate(self, requests: list[Request]) -> list[Emission]:
        """Run all of them."""
        ...

    def abort(self, request_id: str) -> None:
        """End one of them early; called from another thread."""
        ...


class EngineService:
    """A batch runs, in a thread, once as many requests wait as episodes live: each episode waits for one at a time. Its
    rows are in the order of request ids, so that equal requests make equal batches whatever the order they came in.

    With ``patience_sec`` a batch also runs that long after its first request came, whoever is still busy with tools;
    without, only who waits decides, and batches are the same in every run. All calls belong on one event loop.
    """

    def __init__(self, engine: BatchEngine, *, patience_sec: float | None = None) -> None:
        self._engine = engine
        self._patience_sec = patience_sec
        self._live: set[str] = set()
        self._waiting: list[tuple[Request, asyncio.Future[Emission]]] = []
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def episode(self, key: str) -> AsyncGenerator[None]:
        """While this is open batches wait for a request of that episode. Keys must differ (``ValueError``)."""
        if key in self._live:
            raise ValueError(f"an episode {key!r} is live already")
        self._live.add(key)
        try:
            yield
        finally:
            # However it ended, the others must not wait for it.
            self._live.discard(key)
            self._start_if_ready()

    async def generate(self, request: Request) -> Emission:
        """The emission of one request. Raises what :meth:`BatchEngine.check` and the batch raise. Cancelling it aborts
        the request and nothing else."""
        self._engine.check(request)
        future: asyncio.Future[Emission] = asyncio.get_running_loop().create_future()
        entry = request, future
        self._waiting.append(entry)
        self._start_if_ready()
        try:
            return await future
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif future.cancelled():
                self._engine.abort(request.id)

    def _start_if_ready(self) -> None:
        # Not at once: whoever was started together with the first to ask shall be counted too.
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        if self._running is not None or not self._waiting:
            return
        if len(self._waiting) >= len(self._live):
            self._start()
        elif self._patience_sec is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_sec, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is None and self._waiting:
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        batch, self._waiting = sorted(self._waiting, key=lambda each: each[0].id), []
        try:
            emissions = await asyncio.to_thread(self._engine.generate, [request for request, _ in batch])
        except Exception as error:
            # A boundary: each caller gets the failure, none waits for ever.
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), emission in zip(batch, emissions, strict=True):
                if not future.done():
                    future.set_result(emission)
        finally:
            self._running = None
            self._start_if_ready()
