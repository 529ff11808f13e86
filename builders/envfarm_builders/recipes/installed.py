"""What the distributions of an environment say they may need, extras included."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from packaging.utils import canonicalize_name

_REQUIRES = re.compile(rb"^Requires-Dist:\s*([A-Za-z0-9][A-Za-z0-9._-]*)", re.MULTILINE)
_MOST_BYTES = 1 << 20


def mentioned_names(env: Path) -> frozenset[str]:
    """Normalised names in the ``Requires-Dist`` lines of all distributions installed in ``env``.

    The files were written inside a box by whatever was installed: only plain files are read, and of each the start.
    """
    found: set[str] = set()
    for path in env.glob("lib/python3*/site-packages/*.dist-info/METADATA"):
        found.update(canonicalize_name(name.decode()) for name in _REQUIRES.findall(_start_of(path)))
    return frozenset(found)


def _start_of(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""  # a link, or nothing: no distribution of ours to read
    try:
        return os.read(descriptor, _MOST_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)
