"""What the queries share: rows to nouns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import Row

from ..codec import load, unpack
from ..db import Store

N = TypeVar("N", bound=BaseModel)


def read(store: Store, query: sa.Executable) -> list[Row[Any]]:
    """Rows of a query."""
    return store.read(lambda connection: list(connection.execute(query)))


def body(store: Store, kind: type[N], query: sa.Executable) -> N | None:
    """The noun in the first row, stored as text."""
    rows = read(store, query)
    return load(kind, rows[0][0]) if rows else None


def packed(store: Store, kind: type[N], query: sa.Executable) -> N | None:
    """The noun in the first row, stored packed."""
    rows = read(store, query)
    return unpack(kind, rows[0][0]) if rows else None


def total(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """A sum as a whole number, on both databases."""
    return sa.cast(sa.func.sum(column), sa.BigInteger)


def time_of(epoch_sec: float) -> datetime:
    """A stored time."""
    return datetime.fromtimestamp(epoch_sec, UTC)
