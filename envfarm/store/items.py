"""The steps of the queue inside a transaction: insert, take, hold, close."""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Row

from envfarm.core.errors import FailureRecord, Reason, StoreError, Tier
from envfarm.core.ports import StageOutcome
from envfarm.core.work import Lease, StageResult, Work

from . import funnel
from .bulk import upsert
from .codec import checked, dump_value, load, load_value
from .tables import items
from .transaction import Transaction, clock, clock_values

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where an item stands. ``delayed`` is never stored: it is a queued item whose time has not come."""

    queued = "queued"
    delayed = "delayed"
    leased = "leased"
    done = "done"
    quarantined = "quarantined"


ENDED = (State.done, State.quarantined)

_GENERATION = 1 << 30

# Statements are built once: building one costs more than running it.
_ITEM = sa.bindparam("item_id", type_=sa.BigInteger)
_HOLD = sa.select(items.c.token, items.c.state).where(items.c.id == _ITEM).with_for_update()
_CLOSE = sa.update(items).where(items.c.id == _ITEM).values(state=sa.bindparam("new_state"), due_at=None)


def insert(tx: Transaction, works: Sequence[Work]) -> int:
    """Queue what is not there yet; return how many were new."""
    due_at = tx.connection.execute(sa.select(tx.now)).scalar_one()
    rows = []
    for work in works:
        checked(work.run, work.stage, work.key, work.source, work.repo)
        payload = dump_value(work.payload) if work.payload else "{}"
        row = (work.run, work.stage, work.key, payload, work.source, work.repo, "queued", due_at, 0, 0, "", "")
        rows.append(row)
    columns = [column.name for column in items.columns if column.name != "id"]
    return upsert(tx.connection, items, columns, rows, key=["run", "stage", "key"])


def take(
    tx: Transaction, run: str, stages: Sequence[str], worker: str, ttl_sec: float, max_attempts: int
) -> Lease | None:
    """Lease the first item that is due, by stage, then by age. Items that used up their attempts end here."""
    tx.need_not_last()
    values = {f"stage_{n}": stage for n, stage in enumerate(stages)} | clock_values(tx.dialect)
    values |= {"in_run": run, "new_worker": worker, "ttl_sec": ttl_sec}
    while stages:
        values["nonce"] = secrets.randbelow(_GENERATION)
        row = tx.connection.execute(_take(tx.dialect, len(stages)), values).first()
        if row is None:
            break
        if row.attempt <= max_attempts:
            return _lease(row)
        _quarantine(tx, row)
    return None


def held(tx: Transaction, lease: Lease) -> State:
    """Lock the item and return its state. Raises ``StoreError`` (lease_lost) unless the lease's token is its newest."""
    row = tx.connection.execute(_HOLD, {"item_id": lease.item_id}).first()
    if row is None or row.token != lease.token:
        raise lost(lease)
    return State(row.state)


def close(tx: Transaction, lease: Lease, result: StageResult) -> None:
    """End the item: its state, the event, the counters."""
    state = State.quarantined if result.outcome is StageOutcome.failed else State.done
    tx.connection.execute(_CLOSE, {"item_id": lease.item_id, "new_state": str(state)})
    funnel.record(tx.connection, lease, result)


def is_held(lease: Lease) -> sa.ColumnElement[bool]:
    """The item while this very lease is in force."""
    return (items.c.id == lease.item_id) & (items.c.token == lease.token) & (items.c.state == State.leased)


def next_token() -> sa.ColumnElement[int]:
    """A token above all earlier ones of the item."""
    return (items.c.token // _GENERATION + 1) * _GENERATION + secrets.randbelow(_GENERATION)


def lost(lease: Lease) -> StoreError:
    """The refusal of a stale lease; every one is logged."""
    work = lease.work
    message = f"The lease of {work.stage} '{work.key}' in run {work.run} is lost: another worker has taken it over."
    log.warning("fenced off: %s worker=%s token=%d attempt=%d", message, lease.worker, lease.token, lease.attempt)
    return StoreError(message, reason=Reason.lease_lost, phase=work.stage)


@functools.cache
def _take(dialect: str, stages: int) -> sa.Executable:
    """Lease the head of the first stage that has one; later stages are not even looked at, as COALESCE stops."""
    now = clock(dialect)
    heads = [
        sa.select(items.c.id)
        .where(items.c.run == sa.bindparam("in_run"), items.c.stage == sa.bindparam(f"stage_{n}"))
        .where(items.c.due_at <= now)
        .order_by(items.c.due_at, items.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
        for n in range(stages)
    ]
    head = sa.func.coalesce(*heads) if stages > 1 else heads[0]
    leased = {
        "state": str(State.leased),
        "attempt": items.c.attempt + 1,
        "token": (items.c.token // _GENERATION + 1) * _GENERATION + sa.bindparam("nonce", type_=sa.BigInteger),
        "worker": sa.bindparam("new_worker"),
        "due_at": now + sa.bindparam("ttl_sec", type_=sa.Float),
    }
    return sa.update(items).where(items.c.id == head).values(leased).returning(items)


def _lease(row: Row) -> Lease:
    work = Work(
        run=row.run,
        stage=row.stage,
        key=row.key,
        payload=load_value(row.payload),
        source=row.source,
        repo=row.repo,
    )
    return Lease(
        item_id=row.id,
        work=work,
        token=row.token,
        attempt=row.attempt,
        worker=row.worker,
        expires_at=datetime.fromtimestamp(row.due_at, UTC),
    )


def _quarantine(tx: Transaction, row: Row) -> None:
    """The item's workers died or hung once too often. Its token has just moved on, so a late one stays fenced off."""
    attempts = row.attempt - 1
    last = load(FailureRecord, row.failure) if row.failure else None
    failure = FailureRecord(
        boundary="farm",
        phase=row.stage,
        reason=Reason.lease_lost,
        tier=Tier.ambiguous,
        message=f"The lease ran out at attempt {attempts}, the last: the worker died or hung.",
        detail=f"Before that: {last.reason}: {last.message}\n{last.detail}"[-8000:] if last else "",
    )
    result = StageResult(
        outcome=StageOutcome.failed, reason=failure.reason, detail=failure.message, failure=failure
    )  # fmt: skip
    close(tx, _lease(row).model_copy(update={"attempt": attempts}), result)
