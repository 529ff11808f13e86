"""Making what was written outlive a crash of the machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from .failpoints import failpoint


def write_file(path: Path, data: bytes, *, before_rename: str = "") -> None:
    """Write a file that is there whole or not at all, whatever ends this process or the machine, and whoever else
    writes it: aside first, flushed to the disk, then renamed. ``before_rename`` names a failpoint. Raises ``OSError``,
    and then leaves nothing; of a writer that is killed at most one file stays, which the next one takes."""
    aside = path.with_name(f".{path.name}.new")
    with os.fdopen(_locked(aside), "wb") as file:
        try:
            file.truncate()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if before_rename:
                failpoint(before_rename)
            aside.rename(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _locked(path: Path) -> int:
    """A descriptor of the file, made if need be, that nobody else has locked and that still goes by this name."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # who had it before has renamed it
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
