"""What only a database server can do to us: end a connection, crash, lose a reply, fill its disk."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from envfarm.core.errors import Reason, StoreError
from envfarm.core.work import Lease
from envfarm.store import Store, Transaction, queries

from .postgres import LocalPostgres
from .small_disk import fill, small_disk
from .store_nouns import DONE, FAILURE, work


@pytest.fixture
def url(postgres: LocalPostgres) -> str:
    return postgres.fresh()


def leased(store: Store) -> Lease:
    lease = store.queue.lease("r", ["build"], "w", 60)
    assert lease is not None
    return lease


def test_a_connection_ended_in_the_middle_of_finishing_is_made_up_for(postgres: LocalPostgres, url: str) -> None:
    calls: list[int] = []

    def write(tx: Transaction) -> None:
        pid = tx.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        tx.put_run("written", "x", {})
        calls.append(pid)
        if len(calls) <= 2:
            postgres.execute(f"SELECT pg_terminate_backend({pid})")

    with Store.open(url) as store:
        store.queue.enqueue([work("a")])
        store.queue.finish(leased(store), DONE, write)
        assert len(calls) == 3
        assert [row.id for row in queries.runs(store)] == ["written"]
        assert queries.funnel(store, "r")[0].n == 1


@pytest.mark.parametrize("action", ["finish", "fail", "enqueue", "heartbeat"])
def test_a_lost_reply_to_a_commit_neither_loses_nor_doubles_a_result(
    postgres: LocalPostgres, url: str, action: str
) -> None:
    with cutter(postgres) as cut, Store.open(url.replace(str(postgres.folder), str(cut.folder))) as store:
        store.queue.enqueue([work("a")])
        lease = leased(store)
        cut.armed = True
        if action == "finish":
            store.queue.finish(lease, DONE)
            assert store.queue.counts("r") == {"build": {"done": 1}}
        elif action == "fail":
            assert not store.queue.fail(lease, FAILURE, retryable=False)
            assert store.queue.counts("r") == {"build": {"quarantined": 1}}
        elif action == "heartbeat":
            assert store.queue.heartbeat(lease, 60).token == lease.token
        else:
            store.queue.enqueue([work("b"), work("c")])
            assert store.queue.counts("r") == {"build": {"leased": 1, "queued": 2}}
        assert cut.cuts == 1
        assert len(queries.events(store, "r")) == (action in ("finish", "fail"))


def test_acknowledged_results_survive_a_crash_of_the_server_and_work_goes_on() -> None:
    server = LocalPostgres()
    finished: list[str] = []
    try:
        with Store.open(server.fresh(), retry_sec=60) as store:
            store.queue.enqueue(work(str(n)) for n in range(300))

            def drain(name: str) -> None:
                while not store.queue.idle("r", ["build"]):
                    if lease := store.queue.lease("r", ["build"], name, 0.5, max_attempts=99):
                        try:
                            store.queue.finish(lease, DONE)
                        except StoreError as error:  # its lease ran out while the server was away
                            assert error.reason is Reason.lease_lost
                            continue
                        finished.append(lease.work.key)

            threads = [threading.Thread(target=drain, args=(f"w{n}",)) for n in range(4)]
            for thread in threads:
                thread.start()
            for wanted in (50, 100, 150):
                while len(finished) < wanted and any(thread.is_alive() for thread in threads):
                    threading.Event().wait(0.01)
                server.kill()
                server.start()
            for thread in threads:
                thread.join()
            assert Counter(finished) == {str(n): 1 for n in range(300)}
            assert queries.funnel(store, "r")[0].n == 300
            assert store.queue.counts("r") == {"build": {"done": 300}}
    finally:
        server.close()


def test_a_server_out_of_space_refuses_cleanly_and_resumes(postgres: LocalPostgres, url: str) -> None:
    # Only the tables lie on the small disk: a server whose log fills up stops altogether.
    with small_disk(postgres.folder / "small", "16m") as disk:
        owner = postgres.folder.stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        store = Store.open(f"{url}&options=-c%20default_tablespace%3Dsmall")
        try:
            store.queue.enqueue([work("first")])
            filler = fill(disk)
            many = [work(str(n), payload={"text": "x" * 500}) for n in range(5000)]
            no_space = pytest.raises(StoreError, match="There is no space left on the database server")
            with no_space as caught, store.begin() as tx:
                store.queue.enqueue(many, tx)
            assert caught.value.reason is Reason.disk_full
            assert store.queue.counts("r") == {"build": {"queued": 1}}
            filler.unlink()
            assert store.queue.enqueue(many) == 5000
        finally:
            store.close()
            postgres.fresh()
            postgres.execute("DROP TABLESPACE small")


class Cutter:
    """Stands between client and server; once ``armed``, lets one COMMIT through and cuts before its reply."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self.armed = False
        self.cuts = 0
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: the end of the test
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            cut = threading.Event()
            threading.Thread(target=self._pump, args=(client, server, cut, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, cut, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, cut: threading.Event, from_client: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if from_client and self.armed and b"COMMIT" in data:
                    self.armed = False
                    cut.set()
                if not from_client and cut.is_set():
                    self.cuts += 1
                    break  # the reply is here, so the commit is done; the client never hears of it
                target.sendall(data)
        except OSError:
            pass  # the other direction has shut both sockets
        for end in (source, target):
            with suppress(OSError):  # shut already
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutter(postgres: LocalPostgres) -> Iterator[Cutter]:
    folder = postgres.folder / "cut"
    folder.mkdir(exist_ok=True)
    (folder / ".s.PGSQL.5432").unlink(missing_ok=True)
    proxy = Cutter(folder, postgres.folder / ".s.PGSQL.5432")
    try:
        yield proxy
    finally:
        proxy.close()
