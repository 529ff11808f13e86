"""What is recorded when an item reaches its end: one event, and one step of the counters, in the same transaction."""

from __future__ import annotations

import time
import zlib

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from envfarm.core.work import Lease, StageResult

from . import tables
from .codec import checked, cleaned, dump

SHARDS = 16
"""Rows per counter, by worker. Concurrent workers of PostgreSQL would otherwise wait for one another's commit."""


def record(connection: Connection, lease: Lease, result: StageResult) -> None:
    """Insert the event and count it. Counters come last: their rows are the only ones that workers share."""
    work = lease.work
    checked(result.reason, result.log)
    connection.execute(
        tables.events.insert().values(
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
        )
    )
    shard = zlib.crc32(lease.worker.encode()) % SHARDS
    _count(connection, tables.funnel, lease, result, {"source": work.source, "shard": shard})
    _count(connection, tables.funnel_repos, lease, result, {"repo": work.repo})


def _count(
    connection: Connection, table: sa.Table, lease: Lease, result: StageResult, label: dict[str, object]
) -> None:
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
    row = insert(table).values(
        run=lease.work.run,
        stage=lease.work.stage,
        outcome=str(result.outcome),
        reason=str(result.reason),
        n=1,
        wall_sec=result.wall_sec,
        cpu_sec=result.cpu_sec,
        bytes_written=result.bytes_written,
        **label,
    )
    sums = {name: table.c[name] + row.excluded[name] for name in ("n", "wall_sec", "cpu_sec", "bytes_written")}
    connection.execute(row.on_conflict_do_update(index_elements=list(table.primary_key), set_=sums))
