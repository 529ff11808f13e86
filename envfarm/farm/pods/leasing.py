"""Leases: who gets a ready box, written to the store many at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from envfarm.core.errors import EnvfarmError, Reason, Refused
from envfarm.store.slots import Hold, Slots

from .pool import Phase, Pool, Slot


@dataclass
class Lease:
    """A box of one's own. ``lost`` is set, with what the cluster said, when the box ends under its holder."""

    pool: str
    name: str
    namespace: str
    address: str
    node: str
    token: str
    """For the agent in the box."""
    hold: Hold
    lost: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass
class _Waiter:
    count: int
    given: asyncio.Future[list[Slot]]


class Committer:
    """One transaction for all leases that are asked for while the last one is written."""

    def __init__(self, slots: Slots, epoch: Callable[[], int], ttl_sec: float) -> None:
        self._slots, self._epoch, self._ttl_sec = slots, epoch, ttl_sec
        self._holds: list[tuple[list[Hold], asyncio.Future[None]]] = []
        self._frees: list[tuple[Hold, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def hold(self, holds: Sequence[Hold]) -> None:
        """Returns once they are durable. Raises ``StoreError``."""
        done = asyncio.get_running_loop().create_future()
        self._holds.append((list(holds), done))
        self._wake()
        await done

    async def free(self, hold: Hold) -> None:
        """Returns once the lease's end is durable. Raises ``StoreError``."""
        done = asyncio.get_running_loop().create_future()
        self._frees.append((hold, done))
        self._wake()
        await done

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="leases")

    async def _write(self) -> None:
        while self._holds or self._frees:
            holds, self._holds = self._holds, []
            frees, self._frees = self._frees, []
            waiting = [done for _, done in holds] + [done for _, done in frees]
            try:
                await asyncio.to_thread(self._once, [each for part, _ in holds for each in part], [h for h, _ in frees])
            except EnvfarmError as error:  # the boundary to whoever waits
                for done in waiting:
                    if not done.done():
                        done.set_exception(error)
            else:
                for done in waiting:
                    if not done.done():
                        done.set_result(None)

    def _once(self, holds: list[Hold], frees: list[Hold]) -> None:
        if holds:
            self._slots.hold(self._epoch(), holds, self._ttl_sec)
        if frees:
            self._slots.free(self._epoch(), frees)


class Counter:
    """The queue at a pool's counter: first come, first served, groups whole or not at all."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiters: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        """Boxes that are waited for."""
        return sum(each.count for each in self._waiters)

    async def take(self, count: int, timeout_sec: float) -> list[Slot]:
        """``count`` places, moved to held. Raises :class:`Refused` after ``timeout_sec``, or at once where the pool can
        never hold so many."""
        pool = self._pool
        if count > pool.declared:
            raise Refused(
                f"Pool {pool.name} has {pool.declared} places, and {count} boxes were asked for at once.",
                reason=Reason.capacity, retry_sec=60.0, remedy="Declare a larger pool, or ask for fewer.",
            )  # fmt: skip
        waiter = _Waiter(count, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self.serve()
        try:
            async with asyncio.timeout(timeout_sec):
                return await waiter.given
        except TimeoutError:
            raise self._refusal(count, timeout_sec) from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self.serve()  # one behind may be smaller
            elif not waiter.given.cancelled() and waiter.given.done() and _cancelling():
                for slot in waiter.given.result():  # given in the moment its taker left
                    self.put_back(slot)

    def put_back(self, slot: Slot) -> None:
        """A place that was taken and not used."""
        if slot.phase is Phase.held:
            self._pool.move(slot, Phase.ready)
            self.serve()

    def serve(self) -> None:
        """Give what is ready to those who wait."""
        while self._waiters:
            first = self._waiters[0]
            if first.given.done():
                self._waiters.popleft()
                continue
            slots = self._pool.take_ready(first.count)
            if not slots:
                return
            self._waiters.popleft()
            for slot in slots:
                self._pool.move(slot, Phase.held)
            first.given.set_result(slots)

    def _refusal(self, count: int, timeout_sec: float) -> Refused:
        pool, now = self._pool, time.monotonic()
        what = f"{count} box{'es' if count > 1 else ''} of pool {pool.name}"
        if pool.breaker.reason is not None:
            reason = (
                pool.breaker.reason if pool.breaker.reason in (Reason.quota, Reason.image, Reason.node) else Reason.node
            )
            return Refused(
                f"No {what} within {timeout_sec:g} s: {pool.breaker.message}", reason=reason,
                retry_sec=pool.breaker.retry_sec(now),
            )  # fmt: skip
        if pool.unschedulable:
            return Refused(
                f"No {what} within {timeout_sec:g} s: the cluster has no room for {pool.unschedulable} asked for.",
                reason=Reason.capacity, retry_sec=10.0, remedy="Add nodes, or declare a smaller pool.",
            )  # fmt: skip
        if pool.counts[Phase.held] + count > pool.declared:
            return Refused(
                f"No {what} within {timeout_sec:g} s: {pool.counts[Phase.held]} of {pool.declared} are leased.",
                reason=Reason.capacity, retry_sec=5.0, remedy="Wait for a release, or declare a larger pool.",
            )  # fmt: skip
        return Refused(
            f"No {what} within {timeout_sec:g} s: {pool.counts[Phase.ready]} ready, "
            f"{pool.counts[Phase.asked] + pool.counts[Phase.starting]} on the way.",
            reason=Reason.timeout, retry_sec=1.0,
        )  # fmt: skip


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
