"""``AgentSandbox``: the Sandbox port over an agent, however its socket is reached."""

from __future__ import annotations

import asyncio
import contextlib
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from envfarm.core.base import Noun
from envfarm.core.box import ExecRequest, ExecResult, FileStat
from envfarm.core.errors import Reason, SandboxError, Tier
from envfarm.core.ports import OutputSink

from . import wire

Connect = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]
"""Opens one connection to the agent. ``OSError`` means that the box cannot be reached."""

_CONTROL_TIMEOUT_SEC = 30.0
_TRANSFER_TIMEOUT_SEC = 600.0
_BEAT_SEC = 5.0
_ANSWERED = (
    "exit_code",
    "signal",
    "timed_out",
    "oom_killed",
    "stdout_cut_bytes",
    "stderr_cut_bytes",
    "report_cut_bytes",
    "duration_sec",
    "cpu_sec",
    "max_rss_kb",
    "replayed",
)
"""Fields of ``ExecResult`` that the agent's answer gives under the same name."""
_NOTHING: Mapping[str, bytes] = {}
N = TypeVar("N", bound=Noun)


def unix_socket(path: str | Path) -> Connect:
    """The agent that listens on the unix socket at ``path``."""

    async def connect() -> tuple[StreamReader, StreamWriter]:
        return await asyncio.open_unix_connection(path)

    return connect


class AgentSandbox:
    """A box, through its agent: one connection for each call.

    ``exec_limits`` are the rlimits every command gets: ``nproc``, ``fsize_bytes``, ``as_bytes``, ``nofile``,
    ``cpu_sec``, ``core``. A call that gets no answer raises ``SandboxError`` (box_lost) and is never taken for a
    success.
    """

    agent_grace_sec = 15.0
    """How much longer than its command an agent may take to answer before it is held to be dead."""

    def __init__(
        self, id: str, connect: Connect, token: str = "", exec_limits: Mapping[str, int] | None = None
    ) -> None:
        self._id = id
        self._connect = connect
        self._token = token
        self._exec_limits = dict(exec_limits or {})

    @property
    def id(self) -> str:
        return self._id

    async def exec(
        self, request: ExecRequest, *, stdin: bytes | None = None, on_output: OutputSink | None = None
    ) -> ExecResult:
        """Run a command to its end. Cancelling the call kills the command, unless it has an idempotency key."""
        query = {
            "argv": request.argv,
            "cwd": request.cwd,
            "env": request.env,
            "timeout_sec": request.timeout_sec,
            "output_limit_bytes": request.output_limit_bytes,
            "report_fd": request.report_fd,
            "report_limit_bytes": request.report_limit_bytes,
            "key": request.idempotency_key,
            "limits": self._exec_limits,
        }
        output: dict[bytes, list[bytes]] = {wire.STDOUT: [], wire.STDERR: [], wire.REPORT: []}
        async with self._call("exec", query, request.timeout_sec + self.agent_grace_sec) as (reader, writer):
            # Not awaited: the transport sends what the agent takes while the answer is read. Waiting here would
            # dead-lock with a command that writes before it reads.
            for start in range(0, len(stdin or b""), wire.CHUNK):
                wire.write_data(writer, memoryview(stdin or b"")[start : start + wire.CHUNK])
            writer.write(wire.END_FRAME)
            with _beating(writer):
                while True:
                    kind, payload = await self._frame(reader, "exec")
                    if kind == wire.RESULT:
                        break
                    if kind in output:
                        output[kind].append(payload)
                        if on_output is not None and kind != wire.REPORT:
                            on_output("stdout" if kind == wire.STDOUT else "stderr", payload)
        streams = {"stdout": wire.STDOUT, "stderr": wire.STDERR, "report": wire.REPORT}
        joined = {name: b"".join(output[kind]) for name, kind in streams.items()}
        return self._noun(ExecResult, self._json(payload, "exec"), "exec", _ANSWERED, joined)

    async def put(self, path: str, archive: bytes) -> None:
        """Unpack a tar below ``path``. Refused archives (archive_refused) may have been unpacked in part."""
        view = memoryview(archive)
        async with self._call("put", {"path": path}, _TRANSFER_TIMEOUT_SEC) as (reader, writer):
            for start in range(0, len(view), wire.CHUNK):
                wire.write_data(writer, view[start : start + wire.CHUNK])
                await writer.drain()
            writer.write(wire.END_FRAME)
            await self._result(reader, "put")

    async def get(self, path: str, *, limit_bytes: int = 256 << 20) -> bytes:
        """Tar of ``path``: a folder's content, or the one file. The same content gives the same bytes."""
        parts: list[bytes] = []
        query = {"path": path, "limit_bytes": limit_bytes}
        async with self._call("get", query, _TRANSFER_TIMEOUT_SEC) as (reader, _writer):
            await self._result(reader, "get", parts)
        return b"".join(parts)

    async def stat(self, path: str) -> FileStat | None:
        """What is at ``path``, a last link not followed; None if nothing is."""
        answer = await self._ask("stat", {"path": path})
        if answer.get("exists") is False:
            return None
        return self._noun(FileStat, answer, "stat", ("kind", "size", "mode", "mtime"))

    async def beat(self) -> None:
        """Tell the agent that the box is still wanted. Every other call says so too."""
        await self._ask("beat", {})

    async def info(self) -> dict[str, Any]:
        """Uptime, counters and load of the agent."""
        return await self._ask("info", {})

    async def kill(self, idempotency_key: str) -> bool:
        """Kill the running command of a key; False when none runs."""
        return (await self._ask("kill", {"key": idempotency_key})).get("killed") is True

    async def shutdown(self) -> None:
        """End the box and everything in it."""
        await self._ask("shutdown", {})

    async def _ask(self, op: str, query: dict[str, Any]) -> dict[str, Any]:
        async with self._call(op, query, _CONTROL_TIMEOUT_SEC) as (reader, _writer):
            return await self._result(reader, op)

    @contextlib.asynccontextmanager
    async def _call(
        self, op: str, query: dict[str, Any], timeout_sec: float
    ) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
        """One connection with its request sent. What goes wrong on the way becomes ``SandboxError``."""
        try:
            opening = wire.query_frame({"op": op, "token": self._token, **query})
        except wire.WireError as error:
            raise SandboxError(
                f"{op} in box {self.id} cannot be asked for: {error}.", reason=Reason.usage, phase=op
            ) from error
        writer: StreamWriter | None = None
        try:
            async with asyncio.timeout(timeout_sec):
                reader, writer = await self._connect()
                writer.write(opening)
                yield reader, writer
        except (asyncio.IncompleteReadError, OSError, TimeoutError) as error:  # boundary
            silent = isinstance(error, TimeoutError) and error.errno is None
            what = f"gave no answer within {timeout_sec:g} s" if silent else "is gone"
            raise SandboxError(
                f"The agent of box {self.id} {what} during {op}; whether it had an effect is unknown.",
                reason=Reason.box_lost,
                phase=op,
                tier=Tier.ambiguous,
                detail=repr(error),
                retryable=True,
            ) from error
        except wire.WireError as error:
            raise self._protocol_error(op, str(error)) from error
        finally:
            if writer is not None:
                # Not close(): it would first send what is still queued, to an agent that may never read it.
                writer.transport.abort()

    async def _result(self, reader: StreamReader, op: str, data: list[bytes] | None = None) -> dict[str, Any]:
        while True:
            kind, payload = await self._frame(reader, op)
            if kind == wire.RESULT:
                return self._json(payload, op)
            if kind == wire.DATA and data is not None:
                data.append(payload)

    async def _frame(self, reader: StreamReader, op: str) -> tuple[bytes, bytes]:
        kind, payload = await wire.read_frame(reader)
        if kind == wire.FAILURE:
            answer = self._json(payload, op)
            try:
                reason = Reason(answer.get("reason"))
            except ValueError:  # an agent newer than this client
                reason = Reason.protocol
            raise SandboxError(
                f"{op} in box {self.id} failed: {answer.get('message')}.",
                reason=reason,
                phase=op,
                tier=Tier.ambiguous,
            )
        return kind, payload

    def _json(self, payload: bytes, op: str) -> dict[str, Any]:
        try:
            answer = json.loads(payload)
        except ValueError as error:
            raise self._protocol_error(op, "its answer is not JSON") from error
        if not isinstance(answer, dict):
            raise self._protocol_error(op, "its answer is no object")
        return answer

    def _noun(
        self,
        model: type[N],
        answer: dict[str, Any],
        op: str,
        fields: Sequence[str],
        more: Mapping[str, bytes] = _NOTHING,
    ) -> N:
        """``model`` from the named fields of an answer, all of which must be there, and from ``more``."""
        try:
            return model.model_validate({**{name: answer[name] for name in fields}, **more})
        except (KeyError, ValidationError) as error:
            raise self._protocol_error(op, "its answer lacks a field or has a wrong one") from error

    def _protocol_error(self, op: str, problem: str) -> SandboxError:
        return SandboxError(
            f"The agent of box {self.id} broke the protocol during {op}: {problem}.", reason=Reason.protocol, phase=op
        )


@contextlib.contextmanager
def _beating(writer: StreamWriter):
    """Keep-alives while a command runs: its caller is still there, so the box is still wanted."""
    loop = asyncio.get_running_loop()

    def beat() -> None:
        nonlocal timer
        if not writer.is_closing():
            writer.write(wire.KEEP_ALIVE_FRAME)
            timer = loop.call_later(_BEAT_SEC, beat)

    timer = loop.call_later(_BEAT_SEC, beat)
    try:
        yield
    finally:
        timer.cancel()
