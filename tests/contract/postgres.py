"""A PostgreSQL of our own: Debian's binaries, a temporary data folder, a unix socket, an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_min_messages": "fatal",
}


def binaries() -> Path | None:
    """The folder of the newest installed server, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class LocalPostgres:
    """One server. ``fsync=False`` is for tests that kill processes, never the machine."""

    def __init__(self, *, fsync: bool = False, options: dict[str, str] | None = None) -> None:
        folder = binaries()
        if folder is None:
            raise FileNotFoundError("no PostgreSQL server below /usr/lib/postgresql")
        self._bin = folder
        self._options = _OPTIONS | {"fsync": "on" if fsync else "off"} | (options or {})
        self._prefix: list[str] = []
        self.folder = Path(tempfile.mkdtemp(prefix="envfarm-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self._run("initdb", "-D", str(self.folder / "data"), "--username=envfarm", "--auth=trust", "--no-sync")
            self.start()
            self.execute("CREATE DATABASE test")
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start, and wait until it answers. Works after :meth:`kill` too."""
        settings = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        # The kernel ends the server when this process dies, however it dies.
        command = [*self._prefix, "setpriv", "--pdeathsig=INT", "--", str(self._bin / "postgres")]
        command += ["-D", str(self.folder / "data"), "-k", str(self.folder), *settings]
        deadline = time.monotonic() + 60
        while True:
            log = (self.folder / "log").open("ab")
            self.process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            log.close()
            while self.process.poll() is None:
                try:
                    psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                    return
                except psycopg.OperationalError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            # Backends of a killed server take a moment to notice and go.
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL to the postmaster: a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stop and delete everything."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # at once: the data is thrown away
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "test") -> str:
        """URL of a database of this server."""
        return f"postgresql://envfarm@/{database}?host={self.folder}"

    def fresh(self) -> str:
        """URL of the one test database, emptied. (A database for each test would be 300 files each.)"""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'test'")
        with psycopg.connect(self.url()) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url()

    def execute(self, statement: str) -> None:
        """One statement as superuser, outside a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *args: str) -> None:
        subprocess.run([*self._prefix, str(self._bin / program), *args], cwd="/", check=True, capture_output=True)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError("no unprivileged user to run PostgreSQL as")


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """The session's server."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = LocalPostgres()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'envfarm.db'}"
    return request.getfixturevalue("postgres").fresh()
