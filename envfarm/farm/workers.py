"""Names of workers, such that another process of the same machine can tell whether one is dead."""

from __future__ import annotations

import os
from pathlib import Path

from envfarm.core.process import Process, own_process, pid_namespace


def worker_name(index: int) -> str:
    """Unique among the workers of a store: place, process, its start, and index."""
    own = own_process()
    return f"{_place()}-{own.pid}-{own.start}-{index}"


def is_dead(worker: str) -> bool:
    """Whether the worker lived on this machine and its process is gone. False where that cannot be known."""
    place, _, rest = worker.partition("-")
    parts = rest.split("-")
    if place != _place() or len(parts) != 3 or not all(part.isdigit() for part in parts):
        return False
    return not Process(pid=int(parts[0]), start=int(parts[1])).alive


def _place() -> str:
    """Host, boot and process namespace: containers may share a name, and process numbers begin anew with each boot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
        namespace = pid_namespace()
    except OSError:  # no procfs: then nobody is ever known to be dead
        return f"{os.uname().nodename.replace('-', '_')}.unknown{os.getpid()}"
    return f"{os.uname().nodename.replace('-', '_')}.{boot}.{namespace}"
