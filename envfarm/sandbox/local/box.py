"""One box from its intent on disk to nothing left of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envfarm.core.errors import EnvfarmError, ProviderError, Reason
from envfarm.core.failpoints import failpoint
from envfarm.core.process import Process, parent_of

from ..client import AgentSandbox, Connect
from . import cgroups, spawn
from .cgroups import Cgroups
from .command import AGENT_FD, INFO_FD, SECCOMP_FD, LaunchPlan, launch_argv
from .faults import os_failure, start_failure
from .records import LOG, RECORD, SOCKET, BoxRecord, write_record

_ANSWER_SEC = 30.0
"""How long a box may take to its first answer; some milliseconds on an idle machine."""
_END_SEC = 5.0
_LOG_TAIL_BYTES = 8000
_BACKLOG = 128


@dataclass(frozen=True)
class Place:
    """Where boxes of a provider lie and as whom they run."""

    boxes: Path
    boxes_fd: int
    """Open folder ``boxes``: sockets are addressed through it, because a Unix socket's path may have 107 bytes."""
    agent: Path
    uid: int | None
    cgroups: Cgroups

    def socket_path(self, box_id: str) -> str:
        """A short path of a box's socket, valid in this process while the folder is open."""
        return f"/proc/self/fd/{self.boxes_fd}/{box_id}/{SOCKET}"

    def connect(self, box_id: str) -> Connect:
        """What opens a connection to a box's agent."""
        return functools.partial(asyncio.open_unix_connection, self.socket_path(box_id))


class Box:
    """A box that this process starts and ends."""

    def __init__(self, place: Place, record: BoxRecord) -> None:
        self.record = record
        self._place = place
        self._folder = place.boxes / record.id
        self._child: spawn.Child | None = None
        self._init_fd = -1
        self._info_fd = -1
        self._ending: asyncio.Task[None] | None = None

    async def start(self, command: Sequence[str], seccomp: bytes | None) -> None:
        """Start ``command`` (bubblewrap's line, with a filter to read where there is one) and wait for the agent.

        Raises ``ProviderError``; when it does, or when the caller is cancelled, nothing is left.
        """
        try:
            failpoint("box.start.before")
            await self._start(command, seccomp)
            failpoint("box.start.after")
        except OSError as error:
            await self._take_back()
            raise os_failure(error) from error
        except BaseException:
            await self._take_back()
            raise

    async def _start(self, command: Sequence[str], seccomp: bytes | None) -> None:
        record, place = self.record, self._place
        self._folder.mkdir(mode=0o700)
        write_record(self._folder, record)
        place.cgroups.create(record.id, record.limits)
        # Open until the box answers or has ended: without a reader bubblewrap dies of the broken pipe, and leaves its
        # child behind.
        self._info_fd, info_theirs = os.pipe2(os.O_CLOEXEC)
        # Only the box holds the listening end once this block is left: a box that dies makes a connection fail
        # instead of hang.
        with contextlib.ExitStack() as given:
            given.callback(os.close, info_theirs)
            listener = given.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(place.socket_path(record.id))
            listener.listen(_BACKLOG)
            fds = [(listener.fileno(), AGENT_FD), (info_theirs, INFO_FD)]
            if seccomp is not None:
                fds.append((_readable(seccomp, given), SECCOMP_FD))
            log = os.open(self._folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            given.callback(os.close, log)
            launch = LaunchPlan(
                agent=place.agent,
                uid=place.uid,
                cgroups=record.cgroups,
                fds=tuple(fds),
                file_size_bytes=record.limits.file_size_mb << 20,
                die_with=None if record.detached else os.getpid(),
            )
            self._child = await spawn.start(
                launch_argv(launch, command), pass_fds=tuple(ours for ours, _ in fds), stderr=log
            )
        await self._first_answer(self._child)
        init = json.loads(os.read(self._info_fd, 4096))["child-pid"]
        os.close(self._info_fd)
        self._info_fd = -1
        self._init_fd = os.pidfd_open(init)
        if parent_of(init) != self._child.pid:  # it ended, and its number is another's by now
            raise start_failure(self._log_tail(), None, place.uid)
        self.record = record.model_copy(update={"monitor": Process.of(self._child.pid), "init": Process.of(init)})
        write_record(self._folder, self.record)

    async def _first_answer(self, child: spawn.Child) -> None:
        client = AgentSandbox(self.record.id, self._place.connect(self.record.id))
        answer = asyncio.ensure_future(client.info())
        try:
            await asyncio.wait({answer, child.ended}, timeout=_ANSWER_SEC, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                return
            # A refused connection is the first sign of a box that is dying; its exit status is about to come.
            await child.wait(_END_SEC if answer.done() else 0.0)
            code = child.ended.result() if child.ended.done() else None
            raise start_failure(self._log_tail(), code, self._place.uid)
        finally:
            answer.cancel()
            with contextlib.suppress(asyncio.CancelledError, EnvfarmError, OSError):
                await answer  # what it says is told by the log and the exit status

    def _log_tail(self) -> str:
        with (self._folder / LOG).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether the box still runs."""
        return self._child is not None and self._child.alive

    async def end(self) -> None:
        """End the box and remove its cgroups and its folder. Idempotent; finishes even if the caller is cancelled.

        Raises ``ProviderError`` when something cannot be removed: the record stays then, and the next start of a
        provider in this home tries again.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._child is not None:
            self._kill()
            if not await self._child.wait(_END_SEC):
                self._child.kill()
                await self._child.wait(_END_SEC)
        for fd in (self._init_fd, self._info_fd):
            if fd >= 0:
                os.close(fd)
        self._init_fd = self._info_fd = -1
        stubborn = await cgroups.remove(map(Path, self.record.cgroups))
        if stubborn:
            raise ProviderError(
                f"The box {self.record.id} has ended but its cgroup {stubborn[0]} cannot be removed.",
                reason=Reason.box_lost,
                phase="release",
                remedy="It is tried again at the next start.",
            )
        self._remove_folder()

    def _kill(self) -> None:
        # With process 1 of the box gone the kernel has killed every process in it, and bubblewrap, which waits for
        # that one, follows by itself. The other way round the box would die some time after bubblewrap.
        assert self._child is not None
        if self._init_fd < 0:
            self._child.kill_starting()
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)

    def _remove_folder(self) -> None:
        # The record last: as long as anything is there, a sweep must find it.
        for name in (SOCKET, LOG, f"{RECORD}.new", RECORD):
            (self._folder / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # it was never made, or a sweep of ours was faster
            self._folder.rmdir()

    async def _take_back(self) -> None:
        # The failure that brought us here is the one to tell; a leftover is found by the next sweep.
        with contextlib.suppress(ProviderError, OSError):
            await self.end()


def _readable(data: bytes, stack: contextlib.ExitStack) -> int:
    """A descriptor that gives ``data`` once and ends: a pipe, which holds at least a page."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    stack.callback(os.close, read_end)
    try:
        os.write(write_end, data)
    finally:
        os.close(write_end)
    return read_end
