"""Jobs of this machine: a process of its own session, which outlives the terminal that sent it off."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from envfarm.core.process import Process
from envfarm.telemetry.training import LOG, Job, Where, write_job

GRACE_SEC = 120.0
"""An update of the weights that is under way is waited for, and a checkpoint is written."""
_POLL_SEC = 0.2


def submit(folder: Path, command: Sequence[str], job: Job) -> Job:
    """Start ``command``, with its output in the run's log, and record its process."""
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    update = {"on": Where.local, "host": socket.gethostname(), "process": Process.of(child.pid)}
    sent = job.model_copy(update=update)
    write_job(folder, sent)
    return sent


def cancel(job: Job, *, grace_sec: float = GRACE_SEC) -> bool:
    """Ask the process to end, and wait until it is gone; False where it had to be killed after ``grace_sec``."""
    deadline = time.monotonic() + grace_sec
    _signal(job, signal.SIGTERM)
    while job.process.alive and time.monotonic() < deadline:
        time.sleep(_POLL_SEC)
    if not job.process.alive:
        return True
    _signal(job, signal.SIGKILL)
    while job.process.alive:
        time.sleep(_POLL_SEC)
    return False


def logs(folder: Path, job: Job, *, follow: bool) -> Iterator[str]:
    """What the job has written; with ``follow`` also what it writes, until it ends."""
    path = folder / LOG
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            # asked before reading, so that its last words are read
            more = follow and job.process.alive
            while text := file.read(1 << 16):
                yield text
            if not more:
                return
            time.sleep(_POLL_SEC)


def _signal(job: Job, number: signal.Signals) -> None:
    if not job.process.alive:
        return
    # A detached job leads a session: what it started is killed with it. Another one's group may hold a user's shell.
    if number is signal.SIGKILL and job.on is Where.local:
        os.killpg(job.process.pid, number)
    else:
        os.kill(job.process.pid, number)
