"""``lease -> run stage -> record``, until nothing is left or the worker is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from envfarm.core.errors import EnvfarmError, FailureRecord, Reason, StoreError, Tier
from envfarm.core.ports import StageOutcome
from envfarm.core.work import Lease, StageResult
from envfarm.store.queue import Queue

from .stage import Completed, Stage


@dataclass(frozen=True)
class WorkEvent:
    """What a progress display needs to know of one finished item."""

    lease: Lease
    outcome: StageOutcome
    reason: str
    message: str
    retried: bool = False


@dataclass
class Worker:
    """One worker: does one item at a time. Run several in a process for concurrency, or several processes."""

    queue: Queue
    run_name: str
    stages: Mapping[str, Stage]
    """In pipeline order. Later stages are leased first, so that finished tasks appear early."""
    name: str
    lease_sec: float = 60.0
    max_attempts: int = 3
    poll_sec: float = 0.2
    on_start: Callable[[Lease], None] | None = None
    on_event: Callable[[WorkEvent], None] | None = None
    _order: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self._order = tuple(reversed(tuple(self.stages)))

    async def work(self) -> None:
        """Work until no stage of the run has anything queued, leased or delayed."""
        while True:
            lease = await asyncio.to_thread(self._lease)
            if lease is None:
                if await asyncio.to_thread(self.queue.idle, self.run_name, self._order):
                    return
                await asyncio.sleep(self.poll_sec)
                continue
            if self.on_start:
                self.on_start(lease)
            await self._one(lease)

    def _lease(self) -> Lease | None:
        return self.queue.lease(self.run_name, self._order, self.name, self.lease_sec, max_attempts=self.max_attempts)

    async def _one(self, lease: Lease) -> None:
        started = time.monotonic()
        try:
            async with self._renewed(lease):
                completed = await self.stages[lease.work.stage].run(lease)
        except asyncio.CancelledError:
            # Interrupted: hand the item back at once, so that a resume does not wait for the lease to run out.
            await asyncio.shield(asyncio.to_thread(self._release, lease))
            raise
        except Exception as error:  # the boundary of stage work: classified and recorded once, never swallowed
            await self._failed(lease, error, time.monotonic() - started)
            return
        await self._finish(lease, completed, time.monotonic() - started)

    async def _finish(self, lease: Lease, completed: Completed, wall_sec: float) -> None:
        result = completed.result
        if not result.wall_sec:
            result = result.model_copy(update={"wall_sec": wall_sec})
        try:
            await asyncio.to_thread(self.queue.finish, lease, result, completed.write)
        except StoreError as error:
            if error.reason is not Reason.lease_lost:
                raise
            # Fenced off: another worker has the item and its result counts. Ours is dropped whole.
            self._tell(lease, StageOutcome.failed, Reason.lease_lost, str(error), retried=True)
            return
        message = result.detail or (result.failure.message if result.failure else "")
        self._tell(lease, result.outcome, result.reason, message)

    async def _failed(self, lease: Lease, error: Exception, wall_sec: float) -> None:
        record, retryable = classify(error)
        result = StageResult(
            outcome=StageOutcome.failed,
            reason=record.reason,
            detail=record.message,
            failure=record,
            wall_sec=wall_sec,
        )
        try:
            again = await asyncio.to_thread(
                lambda: self.queue.fail(
                    lease,
                    record,
                    retryable=retryable,
                    delay_sec=min(30.0, 0.5 * 2**lease.attempt),
                    max_attempts=self.max_attempts,
                    result=result,
                )
            )
        except StoreError as lost:
            if lost.reason is not Reason.lease_lost:
                raise
            again = True  # another worker has taken the item over; it will record what becomes of it
        self._tell(lease, StageOutcome.failed, record.reason, record.message, retried=again)

    def _release(self, lease: Lease) -> None:
        # Cleanup on the way out: a lease lost meanwhile belongs to somebody else already.
        with contextlib.suppress(StoreError):
            self.queue.release(lease)

    def _tell(self, lease: Lease, outcome: StageOutcome, reason: str, message: str, *, retried: bool = False) -> None:
        if self.on_event:
            self.on_event(WorkEvent(lease, outcome, str(reason), message, retried))

    @contextlib.asynccontextmanager
    async def _renewed(self, lease: Lease) -> AsyncIterator[None]:
        """Renews the lease every third of its life; a lost lease ends the renewing, and the finish is refused."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self.lease_sec / 3)
                try:
                    await asyncio.to_thread(self.queue.heartbeat, lease, self.lease_sec)
                except StoreError as error:
                    if error.reason is Reason.lease_lost:
                        return
                    raise

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def classify(error: Exception) -> tuple[FailureRecord, bool]:
    """An exception as a record, and whether trying again may help. A full disk or a bug is retried within the
    budget; what an item did to itself is not."""
    if isinstance(error, EnvfarmError):
        return error.record(), error.retryable
    trace = "".join(traceback.format_exception(error))
    reason = Reason.disk_full if isinstance(error, OSError) and error.errno == 28 else Reason.internal
    message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    record = FailureRecord(
        boundary="farm", phase="stage", reason=reason, tier=Tier.environment, message=message, detail=trace[-8000:]
    )
    return record, True


def cpu_seconds() -> float:
    """CPU seconds of this process and its finished children so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
