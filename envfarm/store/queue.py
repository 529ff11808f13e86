"""The lease queue: the one scheduler of stage work.

An item is queued, leased, then done or quarantined. A lease carries a fencing token; only the newest token of an item
may renew, finish or fail it. Tokens are a generation and 30 random bits, so that one given out before the database
was set back to an older copy is not mistaken for one given out after.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from envfarm.core.errors import FailureRecord
from envfarm.core.ports import StageOutcome
from envfarm.core.work import Lease, StageResult, Work

from . import items as step
from .bulk import batches
from .codec import checked, dump
from .items import ENDED, State
from .tables import funnel as counters
from .tables import items
from .transaction import Transaction

if TYPE_CHECKING:
    from .db import Store

_ENQUEUE_BATCH = 1000
"""Items per transaction: small, so that enqueueing a million does not keep SQLite's one writer from leasing."""


_IS_LEASED = items.c.state == sa.literal_column(f"'{State.leased}'")
"""As a literal, so that the partial index of leased items serves it."""


class Queue:
    """Stage work of all runs. Every call is one transaction and is repeated when the connection is lost."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def enqueue(self, works: Iterable[Work], tx: Transaction | None = None) -> int:
        """Queue what is not there yet, whatever its state; return how many were new.

        Without ``tx`` in batches that commit one by one; repeating an interrupted call queues the rest.
        """
        count = 0
        for batch in batches(works, _ENQUEUE_BATCH):
            if tx is not None:
                count += step.insert(tx, batch)
            else:
                count += self._store.transact("enqueue", lambda own, batch=batch: step.insert(own, batch))
        return count

    def lease(
        self, run: str, stages: Sequence[str], worker: str, ttl_sec: float, *, max_attempts: int = 3
    ) -> Lease | None:
        """The oldest item that is due, of the first of ``stages`` that has one; None if there is none.

        An item whose lease ran out is due again. One that used up ``max_attempts`` leases that way is quarantined.
        """
        checked(run, worker)
        return self._store.transact("lease", lambda tx: step.take(tx, run, stages, worker, ttl_sec, max_attempts))

    def heartbeat(self, lease: Lease, ttl_sec: float) -> Lease:
        """Renew for ``ttl_sec`` from now. Raises ``StoreError`` (lease_lost)."""

        def renew(tx: Transaction) -> float | None:
            tx.need_not_last()
            change = sa.update(items).where(step.is_held(lease)).values(due_at=tx.now + ttl_sec)
            return tx.connection.execute(change.returning(items.c.due_at)).scalar()

        due_at = self._store.transact("heartbeat", renew)
        if due_at is None:
            raise step.lost(lease)
        return lease.model_copy(update={"expires_at": datetime.fromtimestamp(due_at, UTC)})

    def finish(
        self, lease: Lease, result: StageResult, write: Callable[[Transaction], None] | None = None
    ) -> None:  # fmt: skip
        """Record the result: ``write``, ``result.next``, the event, the counters and the item's end, all or nothing.

        Doing it again is no error and changes nothing. ``write`` may run again after a lost connection, so it must
        only write to its transaction. Raises ``StoreError`` (lease_lost), with nothing written.
        """

        def end(tx: Transaction) -> None:
            state = step.held(tx, lease)
            if state in ENDED:
                return  # done before: the reply to that commit was lost
            if state is not State.leased:
                raise step.lost(lease)
            if write is not None:
                write(tx)
            for batch in batches(result.next, _ENQUEUE_BATCH):
                step.insert(tx, batch)
            step.close(tx, lease, result)

        self._store.transact("finish", end)

    def fail(
        self,
        lease: Lease,
        record: FailureRecord,
        *,
        retryable: bool,
        delay_sec: float = 0,
        max_attempts: int = 3,
        result: StageResult | None = None,
    ) -> bool:
        """Queue the item again in ``delay_sec`` and return True; or, if it is not ``retryable`` or this was attempt
        ``max_attempts``, quarantine it with ``result`` (made from ``record`` when absent) and return False.

        Doing it again is no error and changes nothing. Raises ``StoreError`` (lease_lost).
        """
        ending = result or StageResult(
            outcome=StageOutcome.failed, reason=record.reason, detail=record.message, failure=record
        )

        def end(tx: Transaction) -> bool:
            state = step.held(tx, lease)
            if state is not State.leased:
                return state is State.queued  # done before: the reply to that commit was lost
            if not retryable or lease.attempt >= max_attempts:
                step.close(tx, lease, ending)
                return False
            again = {"state": str(State.queued), "due_at": tx.now + delay_sec, "failure": dump(record)}
            tx.connection.execute(sa.update(items).where(items.c.id == lease.item_id).values(again))
            return True

        return self._store.transact("fail", end)

    def release(self, lease: Lease) -> None:
        """Hand the item back without spending an attempt. A lease that is lost already is no error."""

        def give_back(tx: Transaction) -> None:
            # The token moves on, so that the lease just given up cannot finish the item after all.
            back = {
                "state": str(State.queued),
                "due_at": tx.now,
                "attempt": items.c.attempt - 1,
                "token": step.next_token(),
            }
            tx.connection.execute(sa.update(items).where(step.is_held(lease)).values(back))

        self._store.transact("release", give_back)

    def reclaim(self, run: str, is_dead: Callable[[str], bool]) -> int:
        """Make due what dead workers hold, before all that is queued; return how many items that was.

        A worker that was taken for dead and lives is fenced off like one whose lease ran out, or renews its lease.
        """

        def look(connection: Connection) -> list[str]:
            held = sa.select(items.c.worker).where(items.c.run == run, _IS_LEASED).distinct()
            return [worker for worker in connection.execute(held).scalars() if is_dead(worker)]

        dead = self._store.read(look)
        if not dead:
            return 0

        def free(tx: Transaction) -> int:
            here = (items.c.run == run) & _IS_LEASED & items.c.worker.in_(dead)
            return tx.connection.execute(sa.update(items).where(here).values(due_at=0.0)).rowcount

        return self._store.transact("reclaim", free)

    def counts(self, run: str) -> dict[str, dict[str, int]]:
        """Stage -> state -> items. States are queued, delayed, leased, done (rejected ones too) and quarantined."""
        return self._store.read(lambda connection: _counts(connection, run))

    def idle(self, run: str, stages: Sequence[str]) -> bool:
        """Whether nothing of these stages is queued, leased or delayed."""

        def look(connection: Connection) -> bool:
            for stage in stages:
                live = (items.c.run == run) & (items.c.stage == stage) & items.c.due_at.isnot(None)
                if connection.execute(sa.select(items.c.id).where(live).limit(1)).first():
                    return False
            return True

        return self._store.read(look)


def _counts(connection: Connection, run: str) -> dict[str, dict[str, int]]:
    """Every number from an index (grouping a million live items by state would read their rows), in one statement:
    the parts must be of one moment."""
    later = _sum(sa.case((items.c.due_at > Transaction(connection).now, 1), else_=0))
    failed = _sum(sa.case((counters.c.outcome == StageOutcome.failed, counters.c.n), else_=0))
    per_stage = sa.select(items.c.stage, sa.func.count(), later).where(items.c.run == run).group_by(items.c.stage)
    parts = sa.union_all(
        per_stage.where(items.c.due_at.isnot(None)).add_columns(sa.literal("live")),
        per_stage.where(_IS_LEASED).add_columns(sa.literal("leased")),
        sa.select(counters.c.stage, _sum(counters.c.n), failed, sa.literal("ended"))
        .where(counters.c.run == run)
        .group_by(counters.c.stage),
    )
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for stage, count, some, part in connection.execute(parts):
        states = table[stage]
        if part == "live":
            states.update({"queued": count - some, "delayed": some})
        elif part == "leased":
            states.update({"leased": count, "queued": some - count, "delayed": -some})
        else:
            states.update({"done": count - some, "quarantined": some})
    return {stage: {state: n for state, n in states.items() if n} for stage, states in table.items()}


def _sum(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(column), sa.BigInteger)
