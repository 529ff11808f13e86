"""The worker: leases, records, retries, hands back, and never records what it was fenced from."""

import asyncio
import signal
import subprocess
import sys

import pytest

from envfarm.core.config import BuildConfig
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.ports import StageOutcome
from envfarm.core.work import StageResult, Work
from envfarm.farm.pool import run_workers
from envfarm.farm.stage import Completed
from envfarm.farm.workers import is_dead, worker_name
from envfarm.store.db import Store


class Double:
    """First stage: passes a number on, doubled."""

    name = "double"

    async def run(self, lease):
        value = lease.work.payload["value"]
        following = Work(run="r", stage="keep", key=lease.work.key, payload={"value": 2 * value})
        return Completed(StageResult(outcome=StageOutcome.done, next=(following,)))


class Keep:
    """Last stage: keeps what it sees."""

    name = "keep"

    def __init__(self):
        self.seen = []

    async def run(self, lease):
        self.seen.append(lease.work.payload["value"])
        return Completed(StageResult(outcome=StageOutcome.done))


class Failing:
    """Fails the first ``times`` attempts."""

    name = "double"

    def __init__(self, times, *, retryable=True):
        self.times, self.retryable, self.attempts = times, retryable, 0

    async def run(self, lease):
        self.attempts += 1
        if self.attempts <= self.times:
            raise BuilderError("The index is down.", reason=Reason.index_unreachable, retryable=self.retryable)
        return Completed(StageResult(outcome=StageOutcome.done))


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'w.db'}") as store:
        yield store


def works(count):
    return [Work(run="r", stage="double", key=f"k{n}", payload={"value": n}) for n in range(count)]


async def test_items_flow_through_the_stages(store):
    keep, events = Keep(), []
    store.queue.enqueue(works(20))
    await run_workers(
        store.queue, "r", {"double": Double(), "keep": keep}, BuildConfig(workers=3), on_event=events.append
    )
    assert sorted(keep.seen) == [2 * n for n in range(20)]
    assert len(events) == 40
    assert store.queue.counts("r") == {"double": {"done": 20}, "keep": {"done": 20}}


async def test_a_retryable_failure_is_tried_again_and_counts_once(store):
    stage, events = Failing(1), []
    store.queue.enqueue(works(1))
    await run_workers(store.queue, "r", {"double": stage}, BuildConfig(workers=1), on_event=events.append)
    assert stage.attempts == 2
    assert [event.retried for event in events] == [True, False]
    assert store.queue.counts("r") == {"double": {"done": 1}}


async def test_a_permanent_failure_is_quarantined_and_the_next_item_taken(store):
    stage = Failing(1, retryable=False)
    store.queue.enqueue(works(2))
    await run_workers(store.queue, "r", {"double": stage}, BuildConfig(workers=1))
    assert store.queue.counts("r") == {"double": {"done": 1, "quarantined": 1}}


async def test_a_bug_in_a_stage_is_recorded_as_internal(store):
    class Broken:
        name = "double"

        async def run(self, lease):
            return 1 // 0

    events = []
    store.queue.enqueue(works(1))
    await run_workers(
        store.queue, "r", {"double": Broken()}, BuildConfig(workers=1, max_attempts=1), on_event=events.append
    )
    assert [(event.reason, event.retried) for event in events] == [("internal", False)]
    assert "ZeroDivisionError" in events[0].message


async def test_cancelling_hands_the_item_back_without_spending_an_attempt(store):
    class Slow:
        name = "double"
        started = asyncio.Event()

        async def run(self, lease):
            Slow.started.set()
            await asyncio.sleep(60)

    store.queue.enqueue(works(1))
    task = asyncio.create_task(run_workers(store.queue, "r", {"double": Slow()}, BuildConfig(workers=1)))
    await Slow.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lease = store.queue.lease("r", ["double"], "next", 10.0)
    assert lease is not None
    assert lease.attempt == 1


async def test_a_worker_that_lost_its_lease_records_nothing(store):
    class Paused:
        name = "double"

        async def run(self, lease):
            # another worker takes the item over while this one is paused past its lease
            await asyncio.sleep(0.3)
            other = store.queue.lease("r", ["double"], "other", 10.0)
            assert other is not None
            store.queue.finish(other, StageResult(outcome=StageOutcome.done, detail="the other's"))
            return Completed(StageResult(outcome=StageOutcome.rejected, reason="late"))

    events = []
    store.queue.enqueue(works(1))
    config = BuildConfig(workers=1, lease_sec=0.2)
    worker_stage = Paused()
    # no renewing: the lease is shorter than the first renewal can save, as after a SIGSTOP
    from envfarm.farm.worker import Worker

    lease = store.queue.lease("r", ["double"], "late", config.lease_sec)
    worker = Worker(store.queue, "r", {"double": worker_stage}, "late", lease_sec=3600, on_event=events.append)
    await worker._one(lease)
    assert [(event.reason, event.retried) for event in events] == [("lease_lost", True)]
    assert store.queue.counts("r") == {"double": {"done": 1}}


async def test_a_killed_processes_item_is_taken_up_at_once(store, tmp_path):
    script = (
        "import os, signal, sys; from envfarm.farm.workers import worker_name; from envfarm.store import Store\n"
        "with Store.open(sys.argv[1]) as store:\n"
        "    assert store.queue.lease('r', ['double'], worker_name(0), 3600)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    store.queue.enqueue(works(2))
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, f"sqlite:///{tmp_path / 'w.db'}"])
    assert killed.returncode == -signal.SIGKILL
    keep = Keep()
    await run_workers(store.queue, "r", {"double": Double(), "keep": keep}, BuildConfig(workers=1))
    assert keep.seen == [0, 2]


def test_only_workers_known_to_be_dead_are_dead():
    living = worker_name(3)
    place, pid, start, index = living.split("-")
    assert not is_dead(living)
    assert is_dead(f"{place}-{pid}-{int(start) + 1}-{index}"), "another process had that number"
    assert not is_dead(f"elsewhere-{pid}-1-0") and not is_dead("some worker") and not is_dead(f"{place}-x-1-0")
