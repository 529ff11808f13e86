"""Content-addressed bytes in a folder or any fsspec file system; zstd at rest, the digest is of the plain bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import zstandard

from envfarm.core.base import digest_bytes
from envfarm.core.durable import sync
from envfarm.core.errors import Reason, StoreError
from envfarm.core.failpoints import failpoint

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STALE_SEC = 3600.0
"""A temporary file this old belongs to a writer that died."""


class FsspecBlobs:
    """The ``BlobStore`` port. In a local folder: write a temporary file, fsync, rename. Elsewhere: one put to the
    final key, which object stores make visible whole or not at all."""

    def __init__(self, url: str) -> None:
        """Raises ``StoreError`` (config, store_unreachable) for a URL that cannot be used."""
        self.url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"The blob store '{url}' cannot be used: {error}.",
                reason=Reason.config,
                phase="blobs",
                remedy="Name a folder or an fsspec URL whose package is installed.",
            ) from error
        self._root = str(root).rstrip("/")
        self._folder = Path(self._root) if "file" in _protocols(self._fs) else None
        if self._folder is not None:
            with _faults(self.url):
                self._temporary.mkdir(parents=True, exist_ok=True)
                self._sweep()

    def put(self, data: bytes) -> str:
        """Store and return the digest. Raises ``StoreError`` (disk_full, store_unreachable); no torn blob is left."""
        digest = digest_bytes(data)
        if self.has(digest):
            return digest
        packed = zstandard.compress(data, 3)
        with _faults(self.url):
            if self._folder is not None:
                self._write(Path(self._path(digest)), packed)
            else:
                failpoint("blob.put.before_rename")
                self._fs.pipe_file(self._path(digest), packed)
                failpoint("blob.put.after_rename")
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes, checked. Raises ``StoreError`` (blob_missing, blob_corrupt, store_unreachable)."""
        path = self._path(digest)
        try:
            with _faults(self.url):
                packed = Path(path).read_bytes() if self._folder is not None else self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise StoreError(
                f"Blob {digest} is not in {self.url}.",
                reason=Reason.blob_missing,
                phase="blobs",
                remedy="Name the blob store that the run was made with.",
            ) from error
        data = _plain(packed)
        if data is None or digest_bytes(data) != digest:
            raise StoreError(
                f"Blob {digest} is damaged in {self.url}.",
                reason=Reason.blob_corrupt,
                phase="blobs",
                remedy=f"Delete {path} and run again what made it.",
            )
        return data

    def has(self, digest: str) -> bool:
        """Whether the blob is there. Says nothing about its bytes."""
        path = self._path(digest)
        with _faults(self.url):
            return Path(path).exists() if self._folder is not None else bool(self._fs.exists(path))

    @property
    def _temporary(self) -> Path:
        assert self._folder is not None
        return self._folder / "tmp"

    def _path(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"'{digest}' is not a blob digest.", reason=Reason.blob_missing, phase="blobs")
        name = digest.removeprefix("sha256:")
        return f"{self._root}/{name[:2]}/{name[2:4]}/{name}.zst"

    def _write(self, path: Path, packed: bytes) -> None:
        temporary = self._temporary / secrets.token_hex(12)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            self._fan_out(path.parent)
            failpoint("blob.put.before_rename")
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        failpoint("blob.put.after_rename")
        sync(path.parent)

    def _fan_out(self, folder: Path) -> None:
        for each in (folder.parent, folder):
            if not each.is_dir():
                each.mkdir(exist_ok=True)
                sync(each.parent)

    def _sweep(self) -> None:
        for temporary in self._temporary.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process sweeps too
                if time.time() - temporary.stat().st_mtime > _STALE_SEC:
                    temporary.unlink()


def _plain(packed: bytes) -> bytes | None:
    """Decompressed as a stream: a damaged header cannot ask for more memory than its data fills."""
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    except (zstandard.ZstdError, MemoryError):
        return None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


@contextlib.contextmanager
def _faults(url: str) -> Iterator[None]:
    """The boundary to the file system. ``FileNotFoundError`` is the caller's to judge."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"There is no space left for blobs in {url}.",
                reason=Reason.disk_full,
                phase="blobs",
                remedy="Nothing was written; free some space and run again with --resume.",
                retryable=True,
            ) from error
        raise StoreError(
            f"The blob store {url} cannot be used: {error.strerror or error}.",
            reason=Reason.store_unreachable,
            phase="blobs",
            remedy="Check that it exists and is writable.",
            retryable=True,
        ) from error
