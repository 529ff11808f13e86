"""Many rows in few statements: ``executemany`` on SQLite; on PostgreSQL COPY into a staging table, then one INSERT
(ten times the rows a second of array parameters, measured)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Table
from sqlalchemy.engine import Connection

T = TypeVar("T")

_COPY_FROM = 20
"""Fewer rows than this are cheaper as parameters of one INSERT."""


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
    names = ", ".join(columns)
    head = f"INSERT INTO {table.name} ({names})"
    tail = f"ON CONFLICT ({', '.join(key)}) DO {action}"
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        return connection.exec_driver_sql(f"{head} VALUES ({marks}) {tail}", list(rows)).rowcount
    if len(rows) < _COPY_FROM:
        marks = ", ".join([f"({', '.join(['%s'] * len(columns))})"] * len(rows))
        values = tuple(value for row in rows for value in row)
        return connection.exec_driver_sql(f"{head} VALUES {marks} {tail}", values).rowcount
    staged = f"staged_{table.name}"
    # Kept for the life of the connection: a table made and dropped each time would bloat the server's catalogue.
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {staged} ON COMMIT DELETE ROWS AS SELECT {names} FROM {table.name} "
        "WITH NO DATA"
    )
    connection.exec_driver_sql(f"TRUNCATE {staged}")
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {staged} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    return connection.exec_driver_sql(f"{head} SELECT {names} FROM {staged} {tail}").rowcount
