"""A home folder for local boxes in tests: their user must be able to reach it, which pytest's own folders forbid."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_home() -> Iterator[Path]:
    """A fresh folder that everybody may enter, removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="envfarm-test-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home)
