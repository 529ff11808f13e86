"""The ``BlobStore`` port, over folders and over an fsspec file system."""

from __future__ import annotations

import os
import random
import secrets
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envfarm.core.base import digest_bytes
from envfarm.core.errors import Reason, StoreError
from envfarm.store import FsspecBlobs

from . import children
from .small_disk import fill, small_disk


@pytest.fixture(params=["folder", "file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecBlobs:
    urls = {
        "folder": str(tmp_path / "deep/blobs"),
        "file": f"file://{tmp_path}/blobs",
        "memory": f"memory://blobs-{secrets.token_hex(8)}",
    }
    return FsspecBlobs(urls[request.param])


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("data", [b"", b"x", b"text " * 100_000, random.Random(1).randbytes(300_000)])
def test_bytes_come_back_under_their_digest(blobs: FsspecBlobs, data: bytes) -> None:
    digest = digest_bytes(data)
    assert not blobs.has(digest)
    assert blobs.put(data) == blobs.put(data) == digest
    assert blobs.has(digest)
    assert blobs.get(digest) == data
    assert FsspecBlobs(blobs.url).get(digest) == data


def test_a_blob_is_compressed_and_stored_once(tmp_path: Path) -> None:
    blobs = FsspecBlobs(str(tmp_path))
    blobs.put(b"text " * 100_000)
    blobs.put(b"text " * 100_000)
    (file,) = files(tmp_path)
    assert file.stat().st_size < 1000
    assert stat.S_IMODE(file.stat().st_mode) & 0o444
    assert len(file.relative_to(tmp_path).parts) == 3


def test_a_blob_that_is_not_there_is_missing(blobs: FsspecBlobs) -> None:
    for digest in (digest_bytes(b"no"), "sha256:../../etc/passwd", ""):
        with pytest.raises(StoreError) as caught:
            blobs.get(digest)
        assert caught.value.reason is Reason.blob_missing


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    blobs = FsspecBlobs(str(folder))
    digest = blobs.put(b"some bytes, some bytes")
    (file,) = files(folder)
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1 << bit
    file.write_bytes(data)
    try:
        assert blobs.get(digest) == b"some bytes, some bytes"  # a bit of the frame that carries no meaning
    except StoreError as error:
        assert error.reason is Reason.blob_corrupt
        assert str(file) in str(error)


def test_a_blob_cut_short_is_corrupt_and_can_be_made_again(tmp_path: Path) -> None:
    blobs = FsspecBlobs(str(tmp_path))
    digest = blobs.put(b"some bytes")
    (file,) = files(tmp_path)
    os.truncate(file, 10)
    with pytest.raises(StoreError, match="is damaged in"):
        blobs.get(digest)
    file.unlink()
    assert blobs.get(blobs.put(b"some bytes")) == b"some bytes"


def test_eight_threads_putting_the_same_blobs_leave_each_once(tmp_path: Path) -> None:
    blobs = FsspecBlobs(str(tmp_path))
    threads = [
        threading.Thread(target=lambda: [blobs.put(f"blob {n}".encode() * 1000) for n in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files(tmp_path)) == 50


PUT = """
FsspecBlobs(url).put(b"some bytes")
say("survived")
"""


@pytest.mark.parametrize("moment", ["before_rename", "after_rename"])
def test_sigkill_leaves_a_whole_blob_or_none(tmp_path: Path, moment: str) -> None:
    digest = digest_bytes(b"some bytes")
    assert children.run(PUT, str(tmp_path), failpoints=f"blob.put.{moment}") == (-signal.SIGKILL, [])
    blobs = FsspecBlobs(str(tmp_path))
    assert blobs.has(digest) == (moment == "after_rename")
    assert blobs.put(b"some bytes") == digest
    assert blobs.get(digest) == b"some bytes"
    left = list((tmp_path / "tmp").iterdir())
    assert len(left) == (moment == "before_rename")
    for file in left:
        old = time.time() - 7200
        os.utime(file, (old, old))
    FsspecBlobs(str(tmp_path))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_leaves_no_torn_blob_and_the_put_works_once_there_is_space(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(1 << 20)
    with small_disk(tmp_path / "disk") as disk:
        blobs = FsspecBlobs(str(disk / "blobs"))
        kept = blobs.put(b"kept")
        filler = fill(disk)
        before = files(disk)
        with pytest.raises(StoreError, match="There is no space left for blobs in") as caught:
            blobs.put(data)
        assert caught.value.reason is Reason.disk_full
        assert caught.value.retryable
        assert files(disk) == before
        assert blobs.get(kept) == b"kept"
        filler.unlink()
        assert blobs.get(blobs.put(data)) == data
