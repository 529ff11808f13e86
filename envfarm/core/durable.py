"""Making what was written outlive a crash of the machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .failpoints import failpoint


def write_file(path: Path, data: bytes, *, before_rename: str = "") -> None:
    """Write a file that is there whole or not at all, whatever ends this process or the machine, and whoever else
    writes it: aside first, flushed to the disk, then renamed. ``before_rename`` names a failpoint. Raises ``OSError``,
    and then leaves nothing."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if before_rename:
            failpoint(before_rename)
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
