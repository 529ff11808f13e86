"""Starting processes from one thread that never ends, and learning of their end without a watcher thread each.

bubblewrap's ``--die-with-parent`` follows the *thread* that forked it. A provider may be used from a worker thread, so
boxes are started by a thread of this module's own, which lives as long as the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait

from envfarm.core.process import children_of, state_of

_STOP_SEC = 1.0
"""A process stops at its next return from the kernel."""

_Job = tuple[list[str], tuple[int, ...], int, "Future[subprocess.Popen[bytes]]"]


class Spawner:
    """A queue before a thread. No ``preexec_fn`` is ever used, so that starting costs a vfork and not a copy of us."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def spawn(self, argv: Sequence[str], pass_fds: tuple[int, ...], stderr: int) -> Future[subprocess.Popen[bytes]]:
        """Start ``argv`` in a session of its own, with an empty environment and no input or output but ``stderr``."""
        future: Future[subprocess.Popen[bytes]] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="envfarm-spawner", daemon=True)
                self._thread.start()
        self._jobs.put((list(argv), pass_fds, stderr, future))
        return future

    def _run(self) -> None:
        while True:
            argv, pass_fds, stderr, future = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=pass_fds,
                    env={},
                    start_new_session=True,
                )
            except Exception as error:  # boundary: it belongs to whoever waits; without this thread nothing starts
                future.set_exception(error)
            else:
                future.set_result(process)


_spawner = Spawner()


def _forget_thread() -> None:
    global _spawner
    _spawner = Spawner()


os.register_at_fork(after_in_child=_forget_thread)


class Child:
    """A started process. Its end is a future of the loop it was started from."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._on_end)

    def _on_end(self) -> None:
        code = self._process.poll()
        if code is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self.ended.done():
            self.ended.set_result(code)

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as the loop has been told."""
        return not self.ended.done()

    def kill_starting(self) -> None:
        """SIGKILL, while it may be forking: see the function of that name."""
        if self.alive:
            kill_starting(self.pid)

    def kill(self) -> None:
        """SIGKILL, to this very process."""
        if self.alive:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self, timeout_sec: float) -> bool:
        """Wait for the end; False when it did not come in time."""
        done, _ = await asyncio.wait([self.ended], timeout=timeout_sec)
        return bool(done)


def kill_starting(pid: int) -> None:
    """SIGKILL a child of ours, not yet waited for, that may be about to fork, and what it has forked. Blocks for some
    milliseconds at most.

    bubblewrap's child asks to die with its parent some time after the fork: a parent that is killed before leaves a box
    behind that nobody knows. So the parent is stopped first; then its children are known, and go before it does.
    """
    os.kill(pid, signal.SIGSTOP)  # nobody has waited for it: the number is still its own, even if it has ended
    deadline = time.monotonic() + _STOP_SEC
    while (state := state_of(pid)) not in ("T", "t", "") and time.monotonic() < deadline:
        time.sleep(0.0005)
    for child in children_of(pid) if state else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # its parent is stopped: the number cannot have become another's
    os.kill(pid, signal.SIGKILL)


async def start(argv: Sequence[str], pass_fds: tuple[int, ...], stderr: int) -> Child:
    """Start ``argv`` from the spawning thread. Raises ``OSError``.

    When this returns or raises, the descriptors are no longer used here: the caller may close them. A caller
    cancelled meanwhile leaves no process.
    """
    future = _spawner.spawn(argv, pass_fds, stderr)
    try:
        process = await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        if not future.cancel():
            # It is being started this moment. Waiting blocks the loop for as long as a vfork takes; to go on would let
            # the caller close descriptors, and others get their numbers, before the child has its copies.
            wait([future])
            if future.exception() is None:
                process = future.result()
                kill_starting(process.pid)
                process.wait()
        raise
    return Child(process)
