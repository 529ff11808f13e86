"""The agent against clients that do not keep to the protocol, and the client against such agents."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envfarm.core.errors import Reason, SandboxError
from envfarm.sandbox import wire
from envfarm.sandbox.agent_binary import agent_binary
from envfarm.sandbox.client import AgentSandbox, unix_socket

from .agent_process import Agent, running_agent, sh


@pytest.fixture(scope="module")
def agent():
    with running_agent() as agent:
        yield agent


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">cI", kind, len(payload)) + payload


def exchange(agent: Agent, sent: bytes) -> tuple[bytes, bytes]:
    """Type and payload of the last frame that comes back; empty when the agent just closes."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(agent.path))
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := peer.recv(1 << 16):
            received += chunk
    last = (b"", b"")
    while received:
        kind, size = struct.unpack(">cI", received[:5])
        last, received = (kind, received[5 : 5 + size]), received[5 + size :]
    return last


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(b"D", b"x"), id="data-first"),
        pytest.param(frame(b"Q", b"not json"), id="no-json"),
        pytest.param(frame(b"Q", b"[1]"), id="no-object"),
        pytest.param(frame(b"Q", b'{"op":"fly"}'), id="unknown-op"),
        pytest.param(frame(b"Q", b'{"op":"exec","argv":"ls"}'), id="wrong-type"),
        pytest.param(frame(b"Q", b'{"op":"exec","argv":[],"timeout_sec":1}'), id="no-command"),
        pytest.param(b"Q\xff\xff\xff\xff", id="giant-frame"),
        pytest.param(frame(b"Q", b'{"op":"put","path":"/tmp/x"}') + frame(b"Z", b""), id="odd-frame-in-data"),
    ],
)
def test_what_is_no_request_is_refused(agent: Agent, sent: bytes):
    kind, payload = exchange(agent, sent)
    assert kind == wire.FAILURE
    assert json.loads(payload)["reason"] == "protocol"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_noise_never_ends_the_agent(agent: Agent, noise: bytes):
    assert exchange(agent, noise)[0] in (b"", wire.FAILURE)
    assert exchange(agent, frame(b"Q", b'{"op":"beat"}'))[0] == wire.RESULT


def test_an_archive_cut_short_is_no_success(agent: Agent, tmp_path: Path):
    query = json.dumps({"op": "put", "path": str(tmp_path)}).encode()
    assert exchange(agent, frame(b"Q", query) + frame(b"D", b"\0" * 100))[0] in (b"", wire.FAILURE)


async def test_limits_reach_the_command(agent: Agent):
    limits = {"nofile": 77, "fsize_bytes": 4096, "as_bytes": 1 << 30, "cpu_sec": 9, "nproc": 4000}
    sandbox = AgentSandbox("limited", unix_socket(agent.path), exec_limits=limits)
    result = await sandbox.exec(sh("ulimit -n; ulimit -f; ulimit -v; ulimit -t; ulimit -Hn; ulimit -c"))
    # ulimit counts files in blocks of 512 bytes and memory in KiB.
    assert result.stdout.split() == [b"77", b"8", b"1048576", b"9", b"77", b"0"]
    status = await sandbox.exec(sh("grep -E 'NoNewPrivs|SigIgn|SigBlk' /proc/self/status"))
    flags = dict(line.split(b":\t") for line in status.stdout.splitlines())
    assert flags == {b"NoNewPrivs": b"1", b"SigIgn": b"0" * 16, b"SigBlk": b"0" * 16}


async def test_a_file_beyond_its_limit_ends_by_signal(agent: Agent, tmp_path: Path):
    sandbox = AgentSandbox("limited", unix_socket(agent.path), exec_limits={"fsize_bytes": 4096})
    result = await sandbox.exec(sh(f"exec head -c 10000 /dev/zero >{tmp_path}/f"))
    assert result.signal == 25  # SIGXFSZ


async def test_the_last_results_are_kept_and_no_key_runs_twice(agent: Agent, tmp_path: Path):
    count = tmp_path / "count"
    requests = [sh(f"echo x >>{count}; echo {n}", idempotency_key=f"many-{n}") for n in range(260)]
    for request in requests:
        assert (await agent.sandbox.exec(request)).ok
    assert (await agent.sandbox.exec(requests[-1])).stdout == b"259\n"
    with pytest.raises(SandboxError, match="no longer kept"):
        await agent.sandbox.exec(requests[0])
    assert count.read_text() == "x\n" * 260


async def test_large_results_push_older_ones_out(agent: Agent):
    requests = [
        sh(f"head -c 8000000 /dev/zero; : {n}", idempotency_key=f"large-{n}", output_limit_bytes=8 << 20)
        for n in range(10)
    ]
    for request in requests:
        assert (await agent.sandbox.exec(request)).ok
    assert len((await agent.sandbox.exec(requests[-1])).stdout) == 8_000_000
    with pytest.raises(SandboxError, match="no longer kept"):
        await agent.sandbox.exec(requests[0])


# The token, over TCP


@pytest.fixture
def tcp_agent(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [agent_binary(), "serve", "--listen", f"tcp:127.0.0.1:{port}", "--token-file", token]
    process = subprocess.Popen([*command, "--deadline-sec", "30"], stderr=subprocess.PIPE)

    async def connect():
        for _ in range(200):
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:  # it is still starting
                await asyncio.sleep(0.02)
        raise AssertionError("the agent does not listen")

    yield connect, token
    process.terminate()
    process.communicate(timeout=10)


async def test_over_tcp_only_the_token_opens_the_box(tcp_agent):
    connect, token_file = tcp_agent
    sandbox = AgentSandbox("tcp", connect, token="0123456789abcdef")
    assert (await sandbox.exec(sh("cat"), stdin=b"x" * 5_000_000)).stdout[:1] == b"x"
    assert not token_file.exists()
    for wrong in ("", "0123456789abcdeg", "0123456789abcdef0"):
        with pytest.raises(SandboxError, match="token") as caught:
            await AgentSandbox("tcp", connect, token=wrong).exec(sh("true"))
        assert caught.value.reason is Reason.protocol
    environment = await sandbox.exec(sh("env; cat /proc/$PPID/environ 2>/dev/null; cat /proc/$PPID/cmdline"))
    assert b"0123456789abcdef" not in environment.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--deadline-sec", "5"],
        ["--listen", "tcp:127.0.0.1:0", "--deadline-sec", "5"],
        ["--listen", "udp:127.0.0.1:0", "--deadline-sec", "5"],
        ["--listen-fd", "2", "--deadline-sec", "5"],
        ["--listen-fd", "77", "--deadline-sec", "5"],
        ["--token-file", "/nonexistent", "--listen", "tcp:127.0.0.1:0", "--deadline-sec", "5"],
        ["--odd"],
    ],
)
def test_bad_options_are_refused(options: list[str]):
    done = subprocess.run([agent_binary(), "serve", *options], capture_output=True, timeout=10)
    assert done.returncode == 2
    assert done.stderr


# The client against an agent that fails


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", Reason.box_lost, id="closes"),
        pytest.param(frame(b"O", b"partial"), Reason.box_lost, id="ends-after-output"),
        pytest.param(frame(b"X", b'{"exit_code":0}')[:-3], Reason.box_lost, id="cut-in-the-result"),
        pytest.param(b"X\xff\xff\xff\xff", Reason.protocol, id="giant-frame"),
        pytest.param(frame(b"X", b"no json"), Reason.protocol, id="no-json"),
        pytest.param(frame(b"X", b"[]"), Reason.protocol, id="no-object"),
        pytest.param(frame(b"X", b"{}"), Reason.protocol, id="fields-missing"),
        pytest.param(frame(b"X", b'{"exit_code":"zero"}'), Reason.protocol, id="wrong-type"),
        pytest.param(frame(b"F", b'{"reason":"from the future","message":"m"}'), Reason.protocol, id="new-reason"),
        pytest.param(frame(b"F", b'{"reason":"disk_limit","message":"full"}'), Reason.disk_limit, id="failure"),
    ],
)
async def test_a_broken_answer_is_never_a_result(tmp_path: Path, answer: bytes, reason: Reason):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        await wire.read_frame(reader)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "s")
    async with server:
        with pytest.raises(SandboxError) as caught:
            await AgentSandbox("broken", unix_socket(tmp_path / "s")).exec(sh("true"))
    assert caught.value.reason is reason


async def test_no_agent_is_box_lost(tmp_path: Path):
    with pytest.raises(SandboxError) as caught:
        await AgentSandbox("none", unix_socket(tmp_path / "s")).stat("/")
    assert caught.value.reason is Reason.box_lost


@given(st.lists(st.tuples(st.sampled_from([b"O", b"R", b"D", b"H"]), st.binary(max_size=300))))
def test_frames_read_back_as_written(frames: list[tuple[bytes, bytes]]):
    async def read_all() -> list[tuple[bytes, bytes]]:
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(frame(*each) for each in frames))
        reader.feed_eof()
        return [await wire.read_frame(reader) for _ in frames]

    assert asyncio.run(read_all()) == frames
