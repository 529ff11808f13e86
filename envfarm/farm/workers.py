"""Names of workers, such that another process of the same machine can tell whether one is dead."""

from __future__ import annotations

import os
from pathlib import Path


def worker_name(index: int) -> str:
    """Unique among the workers of a store: place, process, its start, and index."""
    return f"{_place()}-{os.getpid()}-{_started(os.getpid())}-{index}"


def is_dead(worker: str) -> bool:
    """Whether the worker lived on this machine and its process is gone. False where that cannot be known."""
    place, _, rest = worker.partition("-")
    parts = rest.split("-")
    if place != _place() or len(parts) != 3 or not all(part.isdigit() for part in parts):
        return False
    return _started(int(parts[0])) != int(parts[1])


def _place() -> str:
    """Host, boot and process namespace: containers may share a name, and process numbers begin anew with each boot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # no procfs: then nobody is ever known to be dead
        return f"{os.uname().nodename.replace('-', '_')}.unknown{os.getpid()}"
    return f"{os.uname().nodename.replace('-', '_')}.{boot}.{namespace}"


def _started(pid: int) -> int:
    """When a process started, in ticks since boot; 0 for one that is not there, or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # gone
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
