"""How an agent, and all that it started, comes to its end."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from envfarm.core.errors import ProviderError, Reason, SandboxError
from envfarm.sandbox import wire
from envfarm.sandbox.agent_binary import agent_binary

from .agent_process import running_agent, sh


async def sleeper() -> int:
    """The pid of ``sleep 4999``, once it runs."""
    for _ in range(100):
        for stat in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if stat.read_bytes() == b"sleep\0004999\0":
                    return int(stat.parent.name)
            except OSError:  # the process has just ended
                continue
        await asyncio.sleep(0.05)
    raise AssertionError("the command did not start")


async def test_deadline_ends_the_agent_and_its_commands():
    with running_agent(deadline_sec=0.6) as agent:
        call = asyncio.create_task(agent.sandbox.exec(sh("setsid sleep 4999 & wait")))
        pid = await sleeper()
        with pytest.raises(SandboxError) as caught:
            await call
        assert caught.value.reason is Reason.box_lost
        assert agent.process.wait(5) == 3
        assert not Path(f"/proc/{pid}").exists()


async def test_a_box_without_heartbeat_ends():
    with running_agent("--heartbeat-sec", "0.5") as agent:
        for _ in range(5):
            await asyncio.sleep(0.2)
            await agent.sandbox.beat()
        assert agent.process.poll() is None
        begin = time.monotonic()
        assert agent.process.wait(5) == 4
        assert 0.3 < time.monotonic() - begin < 2


async def test_shutdown_ends_everything():
    with running_agent() as agent:
        call = asyncio.create_task(agent.sandbox.exec(sh("setsid sleep 4999 & wait")))
        pid = await sleeper()
        await agent.sandbox.shutdown()
        assert agent.process.wait(5) == 0
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(SandboxError):
            await call


async def test_kill_9_of_the_agent_ends_its_commands_and_is_no_result():
    with running_agent() as agent:
        call = asyncio.create_task(agent.sandbox.exec(sh("setsid sleep 4999 & wait")))
        pid = await sleeper()
        agent.process.kill()
        with pytest.raises(SandboxError) as caught:
            await call
        assert caught.value.reason is Reason.box_lost
        assert caught.value.retryable
        await gone(pid)


async def test_kill_9_of_a_client_ends_its_command():
    """A caller's process that vanishes without a word: the socket closes, and the command goes."""
    with running_agent() as agent:
        _reader, writer = await asyncio.open_unix_connection(agent.path)
        writer.write(wire.query_frame({"op": "exec", "argv": ["sleep", "4999"], "timeout_sec": 60}))
        pid = await sleeper()
        writer.transport.abort()
        await gone(pid)


async def test_kill_by_key():
    with running_agent() as agent:
        call = asyncio.create_task(agent.sandbox.exec(sh("sleep 4999", idempotency_key="k")))
        await sleeper()
        assert await agent.sandbox.kill("k")
        result = await call
        assert (result.exit_code, result.signal, result.timed_out) == (None, 9, False)
        assert not await agent.sandbox.kill("k")
        assert not await agent.sandbox.kill("never used")


async def test_a_hung_agent_is_given_up():
    with running_agent() as agent:
        await agent.sandbox.stat("/")
        agent.process.send_signal(signal.SIGSTOP)
        try:
            agent.sandbox.agent_grace_sec = 0.5
            with pytest.raises(SandboxError) as caught:
                await agent.sandbox.exec(sh("true", timeout_sec=0.2))
            assert caught.value.reason is Reason.box_lost
        finally:
            agent.process.send_signal(signal.SIGCONT)


async def test_memory_is_bounded_under_output():
    with running_agent() as agent:
        for _ in range(2):
            result = await agent.sandbox.exec(sh("head -c 500000000 /dev/zero", output_limit_bytes=1 << 20))
            assert len(result.stdout) == 1 << 20
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        peak_kb = int(status.split("VmHWM:")[1].split()[0])
        assert peak_kb < 40_000


async def test_nothing_piles_up_over_many_commands():
    with running_agent() as agent:
        await agent.sandbox.exec(sh("true"))
        for _ in range(5):
            await asyncio.gather(*(agent.sandbox.exec(sh("echo x; (setsid true &)")) for _ in range(20)))
        await asyncio.sleep(0.3)
        info = await agent.sandbox.info()
        assert (info["execs"], info["running"], info["faults"]) == (101, 0, 0)
        assert len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir())) < 25
        children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text().split()
        assert len(children) <= 1  # the supervisor that waits for work


def test_missing_binary_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ENVFARM_AGENT", str(tmp_path / "none"))
    with pytest.raises(ProviderError) as caught:
        agent_binary()
    assert caught.value.reason is Reason.no_agent
    assert "ENVFARM_AGENT" in str(caught.value) and str(tmp_path / "none") in str(caught.value)


async def gone(pid: int) -> None:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")
