"""The empty git folder that plumbing works in. A killed process leaves its own behind; the next one sweeps it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

_PREFIX = "envfarm-git-"
_LOCK = "envfarm.lock"


class Shadow:
    """A temporary folder with the objects and refs found at ``common_dir`` and ``head`` of ``git_dir``.

    It is held by a lock that the kernel gives back when this process dies.
    """

    def __init__(self, git_dir: Path, common_dir: Path, object_format: str) -> None:
        _sweep_once()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._descriptor = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        _fill(self.path, git_dir, common_dir, object_format)

    def remove(self) -> None:
        """Take the folder away and let go of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def _fill(shadow: Path, git_dir: Path, common_dir: Path, object_format: str) -> None:
    (shadow / "objects").mkdir()
    version = 0 if object_format == "sha1" else 1
    config = f"[core]\n\trepositoryformatversion = {version}\n\tbare = true\n"
    if version:
        config += f"[extensions]\n\tobjectFormat = {object_format}\n"
    (shadow / "config").write_text(config)
    (shadow / "HEAD").write_bytes((git_dir / "HEAD").read_bytes())
    (shadow / "refs").symlink_to(common_dir / "refs")
    for name in ("packed-refs", "shallow"):
        if (common_dir / name).is_file():
            (shadow / name).symlink_to(common_dir / name)


@cache
def _sweep_once() -> None:
    """Remove shadows whose holder is dead. One without a lock yet is being made: it is left alone."""
    for shadow in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, another user's, or held: not ours to remove
            descriptor = os.open(shadow / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(shadow)
            finally:
                os.close(descriptor)
