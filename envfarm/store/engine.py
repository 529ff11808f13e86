"""Engines: one for SQLite (WAL, one writer), one for PostgreSQL; and the schema stamp."""

from __future__ import annotations

import importlib.util
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from envfarm.core.errors import Reason, StoreError

from . import tables
from .faults import translated

WRITE = "envfarm_write"
"""Execution option of connections that will write: SQLite then takes its write lock at BEGIN."""

_BUSY_SEC = 30.0
"""How long SQLite waits for another process's transaction."""

_SCHEMA_LOCK = 0x656E7666
"""PostgreSQL advisory lock held while the schema is made."""


def parse_url(url: str) -> URL:
    """A SQLAlchemy URL with our drivers. Raises ``StoreError`` (config)."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise _unusable(url, "it is not a URL") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:") or parsed.query:
            raise _unusable(url, "SQLite needs a plain file")
        return parsed.set(drivername="sqlite", database=str(Path(str(parsed.database)).absolute()))
    if backend in ("postgresql", "postgres"):
        if importlib.util.find_spec("psycopg") is None:
            raise _unusable(url, "the PostgreSQL driver is not installed", "Run: pip install 'envfarm[postgres]'.")
        return parsed.set(drivername="postgresql+psycopg")
    raise _unusable(url, f"'{backend}' is not supported")


def _unusable(url: str, why: str, remedy: str = "Use sqlite:////path/to/file or postgresql://...") -> StoreError:
    shown = url.split("@")[-1]  # the part before may hold a password
    return StoreError(
        f"The database URL '{shown}' cannot be used: {why}.", reason=Reason.config, phase="open", remedy=remedy
    )


def make_engine(url: URL) -> Engine:
    """An engine; nothing is connected yet."""
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            url, pool_size=8, max_overflow=56, connect_args={"check_same_thread": False, "timeout": _BUSY_SEC}
        )
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
        return engine
    return sa.create_engine(
        url, pool_size=8, max_overflow=56, connect_args={"connect_timeout": 10}
    )  # fmt: skip


def _on_sqlite_connect(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours: the driver's own comes too late and is never IMMEDIATE
    cursor = connection.cursor()
    try:
        _enter_wal(cursor)
        # NORMAL: a commit survives the death of the process; a power cut may undo the last ones, but tears none.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA cache_size=-65536")
        # A checkpoint waits for the disk under the write lock: at 64 MB of log, not at SQLite's 4, it is rare.
        cursor.execute("PRAGMA wal_autocheckpoint=16384")
        cursor.execute("PRAGMA temp_store=MEMORY")
    except BaseException:
        # Cleanup: the pool does not know this connection yet, and an open cursor would keep its files open.
        cursor.close()
        connection.close()
        raise
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    mode = "IMMEDIATE" if connection.get_execution_options().get(WRITE) else "DEFERRED"
    connection.exec_driver_sql(f"BEGIN {mode}")


def prepare(engine: Engine) -> None:
    """Make the schema in an empty database, or check its stamp.

    Raises ``StoreError``: store_unreachable, schema_mismatch, disk_full.
    """
    with translated(engine.url, "open"):
        if engine.dialect.name == "sqlite":
            _make_folder(str(engine.url.database))
        with engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            _stamp(connection)


def _make_folder(file: str) -> None:
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The folder of the database {file} cannot be made: {error.strerror}.",
            reason=Reason.store_unreachable,
            phase="open",
            remedy="Set --home or ENVFARM_DATABASE to a writable place.",
        ) from error


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    """WAL is kept in the file. Two processes that switch at once collide without SQLite's own waiting: retried."""
    deadline = time.monotonic() + _BUSY_SEC
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _stamp(connection: Connection) -> None:
    names = set(sa.inspect(connection).get_table_names())
    if not names:
        tables.metadata.create_all(connection)
        connection.execute(tables.meta.insert().values(name="schema", value=tables.SCHEMA))
        return
    found = None
    if "meta" in names:
        found = connection.execute(sa.select(tables.meta.c.value).where(tables.meta.c.name == "schema")).scalar()
    if found != tables.SCHEMA:
        was = f"has schema {found}" if found else "holds tables that are not envfarm's"
        where = connection.engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"The database {where} {was}; this version of envfarm needs schema {tables.SCHEMA}.",
            reason=Reason.schema_mismatch,
            phase="open",
            remedy="Use the version that made it, or name a fresh database.",
        )
