"""The store: opens a database, hands out transactions, repeats what a lost connection may have undone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.engine import Connection, Engine

from envfarm.core.errors import Reason, StoreError
from envfarm.core.failpoints import failpoint

from .engine import WRITE, make_engine, parse_url, prepare
from .faults import translated
from .queue import Queue
from .transaction import Transaction

T = TypeVar("T")


class Store:
    """A database. Calls block; safe to share between threads, not across a fork."""

    def __init__(self, engine: Engine, retry_sec: float) -> None:
        self.queue = Queue(self)
        self.url = engine.url
        self._engine = engine
        self._retry_sec = retry_sec
        # SQLite has one writer, and its own waiting sleeps up to 100 ms at a time: threads queue here instead.
        self._writer: contextlib.AbstractContextManager[object] = (
            threading.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()
        )

    @classmethod
    def open(cls, url: str, *, retry_sec: float = 10.0) -> Store:
        """Open ``url``, making the schema where the database is empty.

        ``retry_sec`` is how long queue calls go on trying while the database is away. Raises ``StoreError``:
        store_unreachable, schema_mismatch, config, disk_full.
        """
        engine = make_engine(parse_url(url))
        try:
            prepare(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, retry_sec)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> contextlib.AbstractContextManager[Transaction]:
        """A transaction: committed at the end of the block, undone if it raises.

        Raises ``StoreError``. After ``store_unreachable`` the commit may or may not have happened; every write is
        idempotent, so repeat the block.
        """
        return self._write("write")

    def read(self, look: Callable[[Connection], T]) -> T:
        """What ``look`` returns, given a connection that only reads; again after a lost connection."""

        def once() -> T:
            with translated(self.url, "read"), self._engine.connect() as connection, connection.begin():
                return look(connection)

        return self._repeated(once)

    def transact(self, name: str, action: Callable[[Transaction], T]) -> T:
        """Run ``action`` in a transaction, again after a deadlock or a lost connection. It must be idempotent.

        ``name`` is the middle of the failpoints ``store.<name>.before_commit`` and ``store.<name>.after_commit``.
        """

        def once() -> T:
            with self._write(name) as transaction:
                return action(transaction)

        return self._repeated(once)

    def _repeated(self, once: Callable[[], T]) -> T:
        deadline = time.monotonic() + self._retry_sec
        delay = 0.05
        while True:
            try:
                return once()
            except StoreError as error:
                if error.reason is not Reason.store_unreachable or not error.retryable:
                    raise
                if time.monotonic() + delay > deadline:
                    raise
            time.sleep(delay)
            delay = min(2 * delay, 1.0)

    @contextlib.contextmanager
    def _write(self, name: str) -> Iterator[Transaction]:
        with translated(self.url, name), self._writer:
            with self._engine.connect().execution_options(**{WRITE: True}) as connection, connection.begin():
                yield Transaction(connection)
                failpoint(f"store.{name}.before_commit")
            failpoint(f"store.{name}.after_commit")
