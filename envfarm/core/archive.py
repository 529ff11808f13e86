"""Trees as values: a deterministic tar from a mapping of paths to files, and the safe way back.

Only what a source tree holds passes: regular files and links that stay inside. Folders are implied by paths (empty
ones are lost), owners are dropped and times are one and the same, so that equal trees are equal bytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import EnvfarmError, Reason

_EPOCH_SEC = 946_684_800
"""Every file's time: 2000-01-01 UTC. Zip archives, which a project's tests may make, know none before 1980."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, or (``link`` set) a symbolic link to that relative target."""

    data: bytes = b""
    mode: int = 0o644
    """Permission bits only; set-id and sticky bits never survive."""
    link: str | None = None


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may hold before it is taken for a bomb."""

    entries: int = 200_000
    total_bytes: int = 2 << 30
    """Of the unpacked stream, headers included."""


def pack(files: Mapping[str, File]) -> bytes:
    """Uncompressed tar, names sorted. Equal mappings give equal bytes. Raises what :func:`check_tree` raises."""
    check_tree(files)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name in sorted(files):
            file = files[name]
            info = tarfile.TarInfo(name)
            info.mtime = _EPOCH_SEC
            if file.link is not None:
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.link, 0o777
                tar.addfile(info)
            else:
                info.size, info.mode = len(file.data), file.mode & 0o777
                tar.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


def unpack(data: bytes, limits: ArchiveLimits | None = None, *, regular_only: bool = False) -> dict[str, File]:
    """The files of a tar (plain, gzip, bzip2 or xz), in memory.

    Raises ``EnvfarmError`` (``archive_refused``) for a damaged archive, a name or a link that leaves the tree, a
    device or a pipe, an entry below a file or a link, and for more than ``limits`` allows. With ``regular_only``
    links, devices and pipes are left out instead.
    """
    limits = limits or ArchiveLimits()
    files: dict[str, File] = {}
    try:
        stream = _Capped(_decompressed(data), limits.total_bytes)
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
            for count, info in enumerate(tar, 1):
                if count > limits.entries:
                    raise refused(f"it holds more than {limits.entries:,} entries")
                if regular_only and not (info.isreg() or info.isdir()):
                    continue
                _take(tar, info, files)
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, ValueError) as error:
        # The boundary: every way in which the standard library calls an archive damaged becomes one reason.
        raise refused(f"it is damaged: {error}", phase="read") from error
    check_tree(files)
    return files


def check_tree(files: Mapping[str, File]) -> None:
    """Raise ``archive_refused`` unless every name and link stays inside and nothing lies below a file or a link."""
    for name, file in files.items():
        if clean_name(name) != name:
            raise refused(f"the name {name!r} is not in its shortest form")
        if file.link is not None and not link_stays_inside(name, file.link):
            raise refused(f"the link {name!r} leaves the tree")
        parent = posixpath.dirname(name)
        while parent:
            if parent in files:
                raise refused(f"{name!r} lies below {parent!r}, which is no folder")
            parent = posixpath.dirname(parent)


def clean_name(name: str) -> str:
    """``name`` in its shortest relative form. Raises ``archive_refused`` if it is empty, absolute or leaves."""
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise refused(f"the name {name!r} leaves the tree")
    clean = "/".join(part for part in name.split("/") if part not in ("", "."))
    if not clean:
        raise refused(f"the name {name!r} names no file")
    return clean


def link_stays_inside(name: str, target: str) -> bool:
    """Whether a link at ``name`` that says ``target`` points into the tree.

    A climb after a step down (``a/../b``) is refused: ``a`` may be a link itself, and then reading the target
    lexically is unsound. Leading climbs are sound, because nothing may lie below a link.
    """
    if not target or target.startswith("/") or "\0" in target:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    return climbs <= name.count("/") and ".." not in parts[climbs:]


def top_folder(names: Iterable[str]) -> str | None:
    """The one folder that holds every name, or None."""
    tops = {name.partition("/")[0] if "/" in name else None for name in names}
    return tops.pop() if len(tops) == 1 else None


def refused(why: str, phase: str = "unpack") -> EnvfarmError:
    """The error for an archive that is not let in; its phase is ``read`` where the archive is damaged."""
    return EnvfarmError(f"The archive is refused: {why}.", reason=Reason.archive_refused, phase=phase)


def _take(tar: tarfile.TarFile, info: tarfile.TarInfo, files: dict[str, File]) -> None:
    if info.isdir():
        if posixpath.normpath(info.name or ".") != ".":
            clean_name(info.name)
        return
    name = clean_name(info.name)
    if info.issym():
        files[name] = File(link=info.linkname)
    elif info.islnk():
        target = files.get(clean_name(info.linkname))
        if target is None:
            raise refused(f"the hard link {info.name!r} names nothing before it")
        files[name] = target
    elif info.isreg():
        source = tar.extractfile(info)
        data = source.read() if source else b""
        if len(data) != info.size:
            raise refused(f"it is damaged: {info.name!r} is cut short", phase="read")
        files[name] = File(data, info.mode & 0o777)
    else:
        raise refused(f"{info.name!r} is neither a file, a folder nor a link")


def _decompressed(data: bytes) -> io.BufferedIOBase:
    raw = io.BytesIO(data)
    if data.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if data.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(raw)
    return raw


class _Capped(io.RawIOBase):
    """A reader that refuses to give more than a number of bytes: bombs in file data and in headers alike."""

    def __init__(self, source: io.BufferedIOBase, limit: int) -> None:
        self._source, self._limit, self._left = source, limit, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._source.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self._left -= len(chunk)
        if self._left < 0:
            raise refused(f"it unpacks to more than {self._limit:,} bytes")
        return chunk
