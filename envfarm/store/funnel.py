"""What is recorded when an item reaches its end: one event, and one step of the counters, in the same transaction."""

from __future__ import annotations

import functools
import time
import zlib

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from envfarm.core.work import Lease, StageResult

from . import tables
from .codec import checked, cleaned, dump

SHARDS = 16
"""Rows per counter, by worker. Concurrent workers of PostgreSQL would otherwise wait for one another's commit."""

_EVENT = tables.events.insert()

_SUMS = ("n", "wall_sec", "cpu_sec", "bytes_written")


def record(connection: Connection, lease: Lease, result: StageResult) -> None:
    """Insert the event and count it. Counters come last: their rows are the only ones that workers share."""
    work = lease.work
    checked(result.reason, result.log)
    connection.execute(
        _EVENT,
        dict(
            item_id=lease.item_id,
            run=work.run,
            stage=work.stage,
            key=work.key,
            source=work.source,
            repo=work.repo,
            outcome=str(result.outcome),
            reason=str(result.reason),
            detail=cleaned(result.detail),
            failure=dump(result.failure) if result.failure else "",
            log=result.log,
            attempt=lease.attempt,
            worker=lease.worker,
            wall_sec=result.wall_sec,
            cpu_sec=result.cpu_sec,
            bytes_written=result.bytes_written,
            at=time.time(),
        ),
    )
    shard = zlib.crc32(lease.worker.encode()) % SHARDS
    _count(connection, tables.funnel, lease, result, {"source": work.source, "shard": shard})
    _count(connection, tables.funnel_repos, lease, result, {"repo": work.repo})


def _count(
    connection: Connection, table: sa.Table, lease: Lease, result: StageResult, label: dict[str, object]
) -> None:
    row = {
        "run": lease.work.run,
        "stage": lease.work.stage,
        "outcome": str(result.outcome),
        "reason": str(result.reason),
        "n": 1,
        "wall_sec": result.wall_sec,
        "cpu_sec": result.cpu_sec,
        "bytes_written": result.bytes_written,
        **label,
    }
    connection.execute(_step(table), row)


@functools.cache
def _step(table: sa.Table) -> sa.TextClause:
    columns = [column.name for column in table.columns]
    key = ", ".join(column.name for column in table.primary_key)
    sums = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in _SUMS)
    values = ", ".join(f":{name}" for name in columns)
    return sa.text(
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {sums}"
    )
