"""The lease queue, over SQLite and over PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envfarm.core.errors import Reason, StoreError
from envfarm.core.ports import StageOutcome
from envfarm.core.work import Lease, StageResult
from envfarm.store import Store, queries

from . import children
from .children import Child
from .store_nouns import DONE, FAILURE, task, work


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as opened:
        yield opened


def leased(store: Store, ttl_sec: float = 60, worker: str = "w") -> Lease:
    lease = store.queue.lease("r", ["build"], worker, ttl_sec)
    assert lease is not None
    return lease


def expired(store: Store) -> Lease:
    lease = leased(store, ttl_sec=0.01)
    time.sleep(0.05)
    return lease


def test_enqueueing_twice_is_one_item(store: Store) -> None:
    works = [work(str(n)) for n in range(2500)]
    assert store.queue.enqueue(works) == 2500
    assert store.queue.enqueue([*works, work("new"), work("new")]) == 1
    store.queue.finish(leased(store), DONE)
    assert store.queue.enqueue(works) == 0
    assert store.queue.counts("r") == {"build": {"queued": 2500, "done": 1}}


def test_enqueueing_belongs_to_the_transaction_it_is_given(store: Store) -> None:
    with pytest.raises(RuntimeError), store.begin() as tx:
        assert store.queue.enqueue([work("a")], tx) == 1
        raise RuntimeError
    assert store.queue.counts("r") == {}
    with store.begin() as tx:
        store.queue.enqueue([work("a")], tx)
    assert store.queue.counts("r") == {"build": {"queued": 1}}


def test_work_comes_back_as_it_went_in(store: Store) -> None:
    item = work("k", payload={"text": "ünï \0 \udc80 🐍", "n": [1, 2.5, None, {"x": 2**70}]})
    store.queue.enqueue([item])
    assert leased(store).work == item


def test_stages_are_leased_in_the_order_given_and_items_by_age(store: Store) -> None:
    store.queue.enqueue([work("1", stage="mine"), work("2", stage="build"), work("3", stage="build")])
    store.queue.enqueue([work("0", stage="build"), work("x", run="another")])
    order = [store.queue.lease("r", ["build", "mine"], "w", 60) for _ in range(5)]
    assert [lease.work.key if lease else None for lease in order] == ["2", "3", "0", "1", None]


def test_eight_threads_never_lease_one_item_twice(store: Store) -> None:
    store.queue.enqueue(work(str(n)) for n in range(400))
    taken: list[str] = []

    def drain(name: str) -> None:
        while lease := store.queue.lease("r", ["build"], name, 60):
            taken.append(lease.work.key)
            store.queue.finish(lease, DONE)

    threads = [threading.Thread(target=drain, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == {str(n): 1 for n in range(400)}
    assert queries.funnel(store, "r")[0].n == 400
    assert store.queue.counts("r") == {"build": {"done": 400}}


DRAIN = """
with Store.open(url) as store:
    say("ready"); wait()
    while lease := store.queue.lease("r", ["build"], args[1], 60):
        store.queue.finish(lease, StageResult(outcome=StageOutcome.done))
        say(lease.work.key)
"""


def test_three_processes_never_lease_one_item_twice(store: Store, database_url: str) -> None:
    store.queue.enqueue(work(str(n)) for n in range(200))
    processes = [Child(DRAIN, database_url, f"w{n}") for n in range(3)]
    assert [process.hear() for process in processes] == ["ready"] * 3
    for process in processes:
        process.go()
    ends = [process.end() for process in processes]
    assert [code for code, _ in ends] == [0] * 3
    assert Counter(key for _, keys in ends for key in keys) == {str(n): 1 for n in range(200)}


def test_a_stale_lease_can_do_nothing(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.queue.enqueue([work("a")])
    stale = expired(store)
    fresh = leased(store)
    assert (fresh.attempt, fresh.item_id) == (2, stale.item_id)
    assert fresh.token > stale.token
    attempts = [
        lambda: store.queue.finish(stale, DONE, lambda tx: tx.put_task("r", task("1"), "draft")),
        lambda: store.queue.heartbeat(stale, 60),
        lambda: store.queue.fail(stale, FAILURE, retryable=True),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError, match="another worker has taken it over") as caught:
            attempt()
        assert caught.value.reason is Reason.lease_lost
    store.queue.release(stale)
    assert caplog.text.count("fenced off") == 3
    assert queries.task(store, "pallets__jinja-1") is None
    assert store.queue.counts("r") == {"build": {"leased": 1}}
    store.queue.finish(fresh, DONE)
    assert queries.events(store, "r")[0].attempt == 2


PAUSED = """
with Store.open(url) as store:
    lease = store.queue.lease("r", ["build"], "paused", 0.2)
    say("leased"); wait()
    try:
        store.queue.finish(lease, StageResult(outcome=StageOutcome.done), lambda tx: tx.put_run("late", "x", {}))
        say("finished")
    except StoreError as error:
        say(str(error.reason))
"""


def test_a_worker_paused_past_its_lease_is_fenced_off(store: Store, database_url: str) -> None:
    store.queue.enqueue([work("a")])
    child = Child(PAUSED, database_url)
    assert child.hear() == "leased"
    assert child.process.pid
    os.kill(child.process.pid, signal.SIGSTOP)
    child.go()
    time.sleep(0.3)
    store.queue.finish(leased(store), DONE)
    os.kill(child.process.pid, signal.SIGCONT)
    assert child.end() == (0, ["lease_lost"])
    assert queries.runs(store) == []
    assert len(queries.events(store, "r")) == 1


def test_an_expired_lease_that_nobody_took_over_may_still_finish(store: Store) -> None:
    store.queue.enqueue([work("a")])
    lease = expired(store)
    assert store.queue.heartbeat(lease, 60).expires_at > lease.expires_at
    assert store.queue.lease("r", ["build"], "other", 60) is None
    store.queue.finish(lease, DONE)
    assert store.queue.idle("r", ["build"])


def test_what_dead_workers_hold_is_due_at_once_and_before_all_else(store: Store) -> None:
    store.queue.enqueue([work("a"), work("b"), work("c"), work("d")])
    first = store.queue.lease("r", ["build"], "dead", 60)
    living = store.queue.lease("r", ["build"], "living", 60)
    third = store.queue.lease("r", ["build"], "dead", 60)
    assert first and living and third
    assert store.queue.reclaim("other run", lambda worker: worker == "dead") == 0
    assert store.queue.reclaim("r", lambda worker: worker == "dead") == 2
    again = [store.queue.lease("r", ["build"], "new", 60) for _ in range(4)]
    assert [lease.work.key if lease else None for lease in again] == ["a", "c", "d", None]
    assert again[0] and again[0].attempt == 2
    with pytest.raises(StoreError):
        store.queue.finish(first, DONE)
    store.queue.finish(living, DONE)


def test_finishing_writes_everything_at_once_and_only_once(store: Store) -> None:
    store.queue.enqueue([work("a")])
    lease = leased(store)
    result = DONE.model_copy(update={"next": (work("a", stage="validate"), work("b", stage="validate"))})
    for _ in range(2):
        store.queue.finish(lease, result, lambda tx: tx.put_task("r", task("1"), "draft"))
    assert queries.task(store, "pallets__jinja-1") == task("1")
    assert store.queue.counts("r") == {"build": {"done": 1}, "validate": {"queued": 2}}
    (row,) = queries.funnel(store, "r")
    assert (row.n, row.wall_sec, row.cpu_sec, row.bytes_written) == (1, 1.5, 0.5, 10)


def test_a_write_that_raises_leaves_the_lease_as_it_was(store: Store) -> None:
    store.queue.enqueue([work("a")])
    lease = leased(store)

    def write(tx: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.queue.finish(lease, DONE, write)
    assert store.queue.counts("r") == {"build": {"leased": 1}}
    store.queue.finish(lease, DONE)


CRASH = """
with Store.open(url) as store:
    queue = store.queue
    works = [Work(run="r", stage="build", key=str(n)) for n in range(3)]
    action = args[1]
    if action == "enqueue":
        queue.enqueue(works)
    lease = queue.lease("r", ["build"], "doomed", 0.3)
    if action == "finish":
        result = StageResult(outcome=StageOutcome.done, next=(Work(run="r", stage="next", key="n"),))
        queue.finish(lease, result, lambda tx: tx.put_run("written", "x", {}))
    if action == "fail":
        record = FailureRecord(boundary="b", phase="p", reason=Reason.internal, tier=Tier.task, message="m")
        queue.fail(lease, record, retryable=False)
    if action == "write":
        with store.begin() as tx:
            tx.put_run("written", "x", {})
    say("survived")
"""


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
@pytest.mark.parametrize("action", ["lease", "enqueue", "finish", "fail", "write"])
def test_sigkill_leaves_all_or_nothing(store: Store, database_url: str, action: str, moment: str) -> None:
    if action != "enqueue":
        store.queue.enqueue(work(str(n), source="", repo="") for n in range(3))
    end = children.run(CRASH, database_url, action, failpoints=f"store.{action}.{moment}")
    assert end == (-signal.SIGKILL, [])
    committed = moment == "after_commit"
    counts = store.queue.counts("r")
    written = [row.id for row in queries.runs(store)]
    if action == "enqueue":
        assert counts == ({"build": {"queued": 3}} if committed else {})
        assert store.queue.enqueue(work(str(n)) for n in range(3)) == (0 if committed else 3)
    elif action == "lease":
        assert counts["build"] == ({"queued": 2, "leased": 1} if committed else {"queued": 3})
    elif action == "finish":
        assert written == (["written"] if committed else [])
        assert counts.get("next") == ({"queued": 1} if committed else None)
        assert counts["build"] == {"queued": 2, ("done" if committed else "leased"): 1}
        assert len(queries.events(store, "r")) == committed
    elif action == "fail":
        assert counts["build"] == {"queued": 2, ("quarantined" if committed else "leased"): 1}
    else:
        assert written == (["written"] if committed else [])
    # Whatever happened, what is left runs to its end and every item ends once.
    deadline = time.monotonic() + 10
    while not store.queue.idle("r", ["build", "next"]) and time.monotonic() < deadline:
        if lease := store.queue.lease("r", ["build", "next"], "next", 60):
            store.queue.finish(lease, DONE)
        else:
            time.sleep(0.05)
    ended = Counter((event.stage, event.key) for event in queries.events(store, "r"))
    assert set(ended.values()) == {1}
    assert {key for stage, key in ended if stage == "build"} == {"0", "1", "2"}


def test_poison_is_quarantined_after_its_attempts_and_the_rest_goes_on(store: Store) -> None:
    store.queue.enqueue([work("poison"), work("good")])
    for attempt in (1, 2, 3):
        lease = store.queue.lease("r", ["build"], "victim", 0.02, max_attempts=3)
        assert lease and (lease.work.key, lease.attempt) == ("poison", attempt)
        if attempt == 1:
            store.queue.finish(leased(store), DONE)
        time.sleep(0.05)
    assert store.queue.lease("r", ["build"], "w", 60) is None
    with pytest.raises(StoreError):
        store.queue.finish(lease, DONE)
    (event,) = queries.quarantined(store, "r")
    assert (event.key, event.attempt, event.reason, event.worker) == ("poison", 3, Reason.lease_lost, "w")
    assert event.failure and "died or hung" in event.failure.message
    assert store.queue.counts("r") == {"build": {"done": 1, "quarantined": 1}}
    assert store.queue.idle("r", ["build"])


def test_quarantine_for_lost_leases_keeps_the_failure_before(store: Store) -> None:
    store.queue.enqueue([work("a")])
    assert store.queue.fail(leased(store), FAILURE, retryable=True)
    expired(store)
    assert store.queue.lease("r", ["build"], "w", 60, max_attempts=2) is None
    (event,) = queries.quarantined(store, "r")
    assert event.failure and "install_failed: pip said no" in event.failure.detail


def test_a_failure_is_retried_after_its_delay_until_the_budget_is_spent(store: Store) -> None:
    store.queue.enqueue([work("a")])
    first = leased(store)
    for _ in range(2):  # the second is the retry of a lost reply
        assert store.queue.fail(first, FAILURE, retryable=True, delay_sec=0.3, max_attempts=2)
    assert store.queue.counts("r") == {"build": {"delayed": 1}}
    assert not store.queue.idle("r", ["build"])
    assert store.queue.lease("r", ["build"], "w", 60) is None
    time.sleep(0.35)
    second = leased(store)
    assert second.attempt == 2
    result = StageResult(outcome=StageOutcome.failed, reason="install_failed", detail="a\0b\udc80", failure=FAILURE)
    for _ in range(2):
        assert not store.queue.fail(second, FAILURE, retryable=True, max_attempts=2, result=result)
    (event,) = queries.quarantined(store, "r")
    assert (event.failure, event.reason, event.detail) == (FAILURE, "install_failed", "a\ufffdb\ufffd")


def test_what_cannot_be_retried_is_quarantined_at_once(store: Store) -> None:
    store.queue.enqueue([work("a")])
    assert not store.queue.fail(leased(store), FAILURE, retryable=False)
    assert queries.quarantined(store, "r")[0].failure == FAILURE


def test_release_hands_back_without_spending_an_attempt(store: Store) -> None:
    store.queue.enqueue([work("a")])
    for _ in range(5):
        lease = leased(store)
        assert lease.attempt == 1
        store.queue.release(lease)
        store.queue.release(lease)
    with pytest.raises(StoreError, match="is lost"):
        store.queue.finish(lease, DONE)
    assert store.queue.counts("r") == {"build": {"queued": 1}}


def test_rejections_are_done_with_their_reason(store: Store) -> None:
    store.queue.enqueue([work("a"), work("b", source="git", repo="click")])
    store.queue.finish(leased(store), StageResult(outcome=StageOutcome.rejected, reason="no_f2p", detail="none"))
    store.queue.finish(leased(store), DONE)
    assert store.queue.counts("r") == {"build": {"done": 2}}
    assert [(row.source, row.reason) for row in queries.funnel(store, "r")] == [("git", ""), ("pypi", "no_f2p")]
    assert [row.outcome for row in queries.funnel(store, "r", repo="click")] == ["done"]


def test_a_token_from_before_a_restored_backup_is_refused(tmp_path: Path) -> None:
    file, backup = tmp_path / "a.db", tmp_path / "backup.db"
    with Store.open(f"sqlite:///{file}") as store:
        store.queue.enqueue([work("a")])
        with sqlite3.connect(file) as source, sqlite3.connect(backup) as target:
            source.backup(target)
        before = leased(store)
    for name in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        name.unlink(missing_ok=True)
    shutil.copy(backup, file)
    with Store.open(f"sqlite:///{file}") as store:
        after = leased(store)
        assert (after.item_id, after.attempt) == (before.item_id, before.attempt)
        with pytest.raises(StoreError, match="is lost"):
            store.queue.finish(before, DONE)
        store.queue.finish(after, DONE)


ACTIONS = st.lists(st.sampled_from(["enqueue", "lease", "expire", "finish", "fail", "release", "late"]), max_size=40)


@settings(max_examples=25, deadline=None)
@given(ACTIONS)
def test_items_are_neither_lost_nor_doubled_whatever_the_order(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/a.db") as store:
        queued, held, stale = 0, [], []
        for action in actions:
            if action == "enqueue":
                queued += store.queue.enqueue([work(str(queued))])
            elif action in ("lease", "expire"):
                lease = store.queue.lease("r", ["build"], "w", 60 if action == "lease" else -1, max_attempts=99)
                if lease is None:
                    continue
                stale += [old for old in held if old.item_id == lease.item_id]
                held = [old for old in held if old.item_id != lease.item_id] + [lease]
            elif action == "late" and stale:
                with pytest.raises(StoreError):
                    store.queue.finish(stale[-1], DONE)
            elif held and action == "finish":
                store.queue.finish(held.pop(), DONE)
            elif held and action == "fail":
                store.queue.fail(held.pop(), FAILURE, retryable=True)
            elif held and action == "release":
                lease = held.pop()
                store.queue.release(lease)
                stale.append(lease)
            counts = store.queue.counts("r").get("build", {})
            assert sum(counts.values()) == queued
            events = queries.events(store, "r")
            assert len(events) == len({event.key for event in events})
            assert sum(row.n for row in queries.funnel(store, "r")) == len(events)
            assert len(events) == counts.get("done", 0) + counts.get("quarantined", 0)
