"""Many rows in few statements: ``executemany`` on SQLite, arrays and ``unnest`` on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Boolean, Float, Integer, LargeBinary, Table
from sqlalchemy.engine import Connection

T = TypeVar("T")

_ARRAYS = {BigInteger: "int8", Integer: "int4", Float: "float8", Boolean: "bool", LargeBinary: "bytea"}


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most ``size``, in order."""
    source = iter(values)
    while batch := list(islice(source, size)):
        yield batch


def upsert(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    *,
    key: Sequence[str],
    update: Sequence[str] = (),
    where: str = "",
) -> int:
    """Insert ``rows``; where ``key`` is taken, set the ``update`` columns (nothing, if none are named).

    ``where`` limits the updates; it may speak of ``excluded``. Returns how many rows were inserted or updated. Of
    rows with equal keys in one call the last counts where columns are updated, else the first.
    """
    if not rows:
        return 0
    if update and len(rows) > 1:
        # PostgreSQL refuses to touch a row twice in one statement.
        places = [columns.index(name) for name in key]
        rows = list({tuple(row[place] for place in places): row for row in rows}.values())
    action = "NOTHING"
    if update:
        action = "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in update)
        action += f" WHERE {where}" if where else ""
    head = f"INSERT INTO {table.name} ({', '.join(columns)})"
    tail = f"ON CONFLICT ({', '.join(key)}) DO {action}"
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        return connection.exec_driver_sql(f"{head} VALUES ({marks}) {tail}", list(rows)).rowcount
    arrays = ", ".join(f"%s::{_ARRAYS.get(type(table.c[name].type), 'text')}[]" for name in columns)
    values = tuple([row[place] for row in rows] for place in range(len(columns)))
    return connection.exec_driver_sql(f"{head} SELECT * FROM unnest({arrays}) {tail}", values).rowcount
