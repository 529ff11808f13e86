"""Databases and blob stores that cannot be used: one clear sentence, nothing left open, nothing overwritten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from envfarm.core.errors import EnvfarmError, Reason, StoreError
from envfarm.core.work import Work
from envfarm.store import FsspecBlobs, Store

from ..contract.small_disk import fill, small_disk


def refused(url: str) -> StoreError:
    """The error of opening ``url``: one sentence and its remedy, and no connection left behind."""
    before = open_files()
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert open_files() <= before
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def open_files() -> set[str]:
    return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "it is not a URL"),
        ("envfarm.db", "it is not a URL"),
        ("sqlite://", "SQLite needs a plain file"),
        ("sqlite:///:memory:", "SQLite needs a plain file"),
        ("sqlite:////tmp/x.db?mode=ro", "SQLite needs a plain file"),
        ("mysql://host/db", "'mysql' is not supported"),
        ("nosuch+thing://host/db", "'nosuch' is not supported"),
    ],
)
def test_a_url_that_names_no_database(url: str, says: str) -> None:
    error = refused(url)
    assert says in str(error)
    assert error.reason is Reason.config


def test_a_password_is_never_shown() -> None:
    for url in ("mysql://me:secret@host/db", "postgresql://me:secret@127.0.0.1:1/db"):
        assert "secret" not in str(refused(url))


def test_a_server_that_does_not_answer() -> None:
    error = refused("postgresql://envfarm@127.0.0.1:1/envfarm")
    assert error.reason is Reason.store_unreachable
    assert error.retryable
    assert "cannot be reached" in str(error)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to be looked at " * 10)
    before = file.read_bytes()
    error = refused(f"sqlite:///{file}")
    assert error.reason is Reason.store_unreachable
    assert "is not an intact SQLite file" in str(error)
    assert file.read_bytes() == before


def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    error = refused(f"sqlite:///{file}")
    assert error.reason is Reason.schema_mismatch
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused(f"sqlite:///{tmp_path}/file/envfarm.db")
    assert error.reason is Reason.store_unreachable
    assert "cannot be made" in str(error)


def test_a_folder_in_place_of_the_database(tmp_path: Path) -> None:
    error = refused(f"sqlite:///{tmp_path}")
    assert error.reason is Reason.store_unreachable


def test_a_full_disk_refuses_the_write_and_the_database_goes_on_once_there_is_space(tmp_path: Path) -> None:
    works = [Work(run="r", stage="s", key=str(n), payload={"text": "x" * 1000}) for n in range(500)]
    with small_disk(tmp_path / "disk") as disk, Store.open(f"sqlite:///{disk}/envfarm.db") as store:
        store.queue.enqueue([works[0]])
        filler = fill(disk)
        with pytest.raises(StoreError, match="There is no space left on the file system of") as caught:
            store.queue.enqueue(works)
        assert caught.value.reason is Reason.disk_full
        assert store.queue.counts("r") == {"s": {"queued": 1}}
        filler.unlink()
        assert store.queue.enqueue(works) == 499
        assert store.queue.counts("r") == {"s": {"queued": 500}}


def test_opening_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        assert refused(f"sqlite:///{disk}/envfarm.db").reason is Reason.disk_full
        filler.unlink()
        Store.open(f"sqlite:///{disk}/envfarm.db").close()


@pytest.mark.parametrize("url", ["nosuch://bucket/blobs", "s3//"])
def test_a_blob_store_of_an_unknown_kind(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "://" not in url:
        FsspecBlobs(url)  # a relative folder is fine
        return
    with pytest.raises(EnvfarmError, match="The blob store 'nosuch://bucket/blobs' cannot be used") as caught:
        FsspecBlobs(url)
    assert caught.value.reason is Reason.config


def test_a_blob_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used: Not a directory") as caught:
        FsspecBlobs(str(tmp_path / "file/blobs"))
    assert caught.value.reason is Reason.store_unreachable
