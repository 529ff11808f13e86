"""The boundary to the database driver: its errors become ``StoreError`` here and nowhere else."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from envfarm.core.errors import Reason, StoreError

_FREE_FLOOR_BYTES = 1 << 20
"""Below this, an I/O error of SQLite is taken for a full disk: the shared-memory file cannot grow."""

_TRANSIENT_SQLSTATES = {
    "40001": "serialization failure",
    "40P01": "deadlock",
    "55P03": "lock timeout",
    "57P01": "server shut down",
    "57P02": "server crashed",
    "57P03": "server is starting",
}


@contextmanager
def translated(url: URL, phase: str) -> Iterator[None]:
    """Raise driver errors in the block as ``StoreError``."""
    try:
        yield
    except DBAPIError as error:
        raise fault(error, url, phase) from error
    except PoolTimeout as error:
        raise StoreError(
            "All database connections are in use.",
            reason=Reason.store_unreachable,
            phase=phase,
            remedy="Use fewer threads, or more processes.",
            retryable=True,
        ) from error
    except SQLAlchemyError as error:
        raise StoreError(f"The database layer failed: {error}.", reason=Reason.internal, phase=phase) from error
    except Exception as error:
        # COPY goes to the driver directly, so its errors come unwrapped.
        if not _is_psycopg(error):
            raise
        raise fault(DBAPIError("COPY", None, error), url, phase) from error


def fault(error: DBAPIError, url: URL, phase: str) -> StoreError:
    """What a driver error means."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_fault(error, url, phase)
    return _postgres_fault(error, url, phase)


def _sqlite_fault(error: DBAPIError, url: URL, phase: str) -> StoreError:
    original = error.orig
    name = getattr(original, "sqlite_errorname", "") or ""
    text = str(original)
    folder = str(Path(url.database or ".").parent)
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _no_space(folder)):
        return _disk_full(f"the file system of {folder}", phase)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _unreachable(f"The database {url.database} is locked by another process.", phase)
    if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return StoreError(
            f"The database {url.database} is not an intact SQLite file: {text}.",
            reason=Reason.store_unreachable,
            phase=phase,
            remedy="Name another file, or restore it from a backup.",
        )
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        return StoreError(
            f"The database {url.database} cannot be used: {text}.",
            reason=Reason.store_unreachable,
            phase=phase,
            remedy="Check that the folder exists and is writable.",
        )
    kind = type(original).__name__ if isinstance(original, sqlite3.Error) else "error"
    return StoreError(f"The database refused a statement: {kind}: {text}.", reason=Reason.internal, phase=phase)


def _postgres_fault(error: DBAPIError, url: URL, phase: str) -> StoreError:
    state = getattr(error.orig, "sqlstate", None) or ""
    text = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    where = url.render_as_string(hide_password=True)
    if state == "53100":
        return _disk_full(f"the database server ({text})", phase)
    if state in _TRANSIENT_SQLSTATES:
        return _unreachable(f"The database {where} gave up the transaction: {_TRANSIENT_SQLSTATES[state]}.", phase)
    if state[:2] in ("28", "3D"):  # bad role or password, no such database
        return StoreError(
            f"The database {where} cannot be opened: {text}.",
            reason=Reason.store_unreachable,
            phase=phase,
            remedy="Check role, password and database name.",
        )
    if error.connection_invalidated or state[:2] in ("08", "53", "57") or not state:
        return _unreachable(f"The database {where} cannot be reached: {text}.", phase)
    return StoreError(f"The database refused a statement: {text}.", reason=Reason.internal, phase=phase)


def _is_psycopg(error: Exception) -> bool:
    psycopg = sys.modules.get("psycopg")  # not imported where only SQLite is used
    return psycopg is not None and isinstance(error, psycopg.Error)


def _disk_full(where: str, phase: str) -> StoreError:
    return StoreError(
        f"There is no space left on {where}.",
        reason=Reason.disk_full,
        phase=phase,
        remedy="Nothing was written; free some space and run again with --resume.",
        retryable=True,
    )


def _unreachable(message: str, phase: str) -> StoreError:
    return StoreError(
        message,
        reason=Reason.store_unreachable,
        phase=phase,
        remedy="Check that it is running and try again.",
        retryable=True,
    )


def _no_space(folder: str) -> bool:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return False  # the folder is gone: not a matter of space
    return stat.f_bavail * stat.f_frsize < _FREE_FLOOR_BYTES
