"""Named places at which a test can end the process as ``kill -9`` would.

``ENVFARM_FAILPOINTS=name:3`` kills at the third hit of ``name``; ``*:120`` at the 120th hit of any. With
``ENVFARM_FAILPOINT_LOG=path`` each hit appends its name to the file, so that a test knows how many there are.
Without these variables a failpoint costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_armed: dict[str, int] = {}
_hits: dict[str, int] = {}
_log: Path | None = None


def _load() -> None:
    global _log
    for entry in filter(None, os.environ.get("ENVFARM_FAILPOINTS", "").split(",")):
        name, _, count = entry.partition(":")
        _armed[name] = int(count or 1)
    if log := os.environ.get("ENVFARM_FAILPOINT_LOG"):
        _log = Path(log)


_load()


def failpoint(name: str) -> None:
    """Mark a place between two durable effects. Names are ``layer.action.moment``: ``store.finish.before_commit``."""
    if not _armed and _log is None:
        return
    if _log is not None:
        with _log.open("a") as file:
            file.write(name + "\n")
    for key in (name, "*"):
        if key in _armed:
            _hits[key] = _hits.get(key, 0) + 1
            if _hits[key] == _armed[key]:
                os.kill(os.getpid(), signal.SIGKILL)
