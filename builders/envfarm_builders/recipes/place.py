"""Where one environment lies: locked while it is built, swept after a crash, put in place by one rename."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from envfarm.core.durable import sync
from envfarm.core.environment import Environment, Layer
from envfarm.core.failpoints import failpoint

MANIFEST = "environment.json"
_POLL_SEC = 0.2


class Place:
    """``<folder>/<key>`` and what leads to it. Nothing but a finished environment is ever seen there."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        self.target = folder / key

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the lock of this key among all processes. The kernel gives it back when the holder dies."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(self.folder / f".{self.key}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            while not _try_lock(descriptor):  # noqa: ASYNC110  (the holder may be another process)
                await asyncio.sleep(_POLL_SEC)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> Environment | None:
        """The finished environment, or None where there is none that this version understands."""
        try:
            return Environment.model_validate_json((self.target / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return None

    def stage(self, uid: int | None) -> Path:
        """A fresh folder to build in, with ``env`` owned by the boxes' user. Leftovers of killed builds go first: the
        lock is ours, so nobody works in them."""
        for stale in self.folder.glob(f"{self.key}.tmp-*"):
            shutil.rmtree(stale)
        if self.target.exists():
            shutil.rmtree(self.target)
        staging = Path(tempfile.mkdtemp(prefix=f"{self.key}.tmp-", dir=self.folder))
        staging.chmod(0o755)
        (staging / "env").mkdir(mode=0o755)
        if uid is not None:
            os.chown(staging / "env", uid, uid)
        return staging

    def finish(self, staging: Path, environment: Environment) -> Environment:
        """Write the manifest, sync, and rename into place. Returns the environment as it lies there."""
        source = f"{self.folder.name}/{self.key}/env"
        layers = tuple(
            Layer(source=source, target=layer.target) if layer.source.endswith(f"{staging.name}/env") else layer
            for layer in environment.layers
        )
        placed = environment.model_copy(update={"layers": layers})
        with (staging / MANIFEST).open("wb") as file:
            file.write(placed.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        # One call: the thousands of files of an environment would take many seconds one by one.
        os.sync()
        failpoint("environment.before_rename")
        staging.rename(self.target)
        sync(self.folder)
        failpoint("environment.after_rename")
        return placed

    def discard(self, staging: Path) -> None:
        """Remove an unfinished build."""
        shutil.rmtree(staging, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
