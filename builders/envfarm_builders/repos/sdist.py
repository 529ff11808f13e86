"""Source archives of packages: unpacked in memory, safely, to the tree a developer would recognise."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterable

from envfarm.core.archive import ArchiveLimits, File, check_tree, clean_name, refused, top_folder, unpack
from envfarm.core.errors import BuilderError, EnvfarmError, Reason

from ..split import is_test_module

LIMITS = ArchiveLimits(entries=50_000, total_bytes=768 << 20)


def unpack_sdist(data: bytes, filename: str, limits: ArchiveLimits = LIMITS) -> dict[str, File]:
    """The tree in a source archive (tar of any compression, or zip), without its single top folder and without what
    packaging tools generate (``PKG-INFO``, ``*.egg-info``).

    Raises ``BuilderError``: ``sdist_broken`` (damaged, empty), ``sdist_unsafe`` (an entry that leaves the tree, a
    device, a link to outside, a bomb).
    """
    try:
        files = _unzip(data, limits) if data.startswith(b"PK\x03\x04") else unpack(data, limits)
        if (top := top_folder(files)) is not None:
            files = {name.removeprefix(top + "/"): file for name, file in files.items()}
            check_tree(files)  # a link through the top folder stayed inside the archive, and leaves the tree
    except EnvfarmError as error:
        damaged = error.phase == "read"
        why = error.message.removeprefix("The archive is refused: ")
        raise BuilderError(
            f"The source archive {filename} is {'broken' if damaged else 'refused'}: {why}",
            reason=Reason.sdist_broken if damaged else Reason.sdist_unsafe,
            phase="unpack",
        ) from error
    kept = {name: file for name, file in files.items() if not _generated(name)}
    if not kept:
        raise BuilderError(
            f"The source archive {filename} is broken: it holds no files.", reason=Reason.sdist_broken, phase="unpack"
        )
    return kept


def carries_tests(names: Iterable[str]) -> bool:
    """Whether a tree holds test modules."""
    return any(is_test_module(name) for name in names)


def _generated(name: str) -> bool:
    parts = name.split("/")
    return parts == ["PKG-INFO"] or any(part.endswith(".egg-info") or part == "__pycache__" for part in parts)


def _unzip(data: bytes, limits: ArchiveLimits) -> dict[str, File]:
    files: dict[str, File] = {}
    total = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > limits.entries:
                raise refused(f"it holds more than {limits.entries:,} entries")
            for info in archive.infolist():
                name, mode = clean_name(info.filename.rstrip("/") or "/"), info.external_attr >> 16
                if info.is_dir():
                    continue
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    raise refused(f"{info.filename!r} is neither a file nor a folder")
                with archive.open(info) as member:
                    content = member.read(limits.total_bytes - total + 1)
                total += len(content)
                if total > limits.total_bytes:
                    raise refused(f"it unpacks to more than {limits.total_bytes:,} bytes")
                files[name] = File(content, (mode & 0o777) or 0o644)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, zlib.error, NotImplementedError, RuntimeError) as error:
        # The boundary: each way in which the standard library calls a zip damaged or unreadable becomes one reason.
        raise refused(f"it is damaged: {error}", phase="read") from error
    check_tree(files)
    return files
