"""What every ``SandboxProvider`` must do. An implementation's test file imports this module's tests and gives fixtures:

``provider``: an entered provider, for the whole module or for each test; ``spec``: a ``BoxSpec`` its boxes start from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from envfarm.core.box import BoxSpec, ExecRequest, ExecResult, Limits, Network
from envfarm.core.errors import EnvfarmError, ProviderError, Reason
from envfarm.core.ports import Sandbox, SandboxProvider


async def shell(box: Sandbox, script: str, timeout_sec: float = 20.0) -> ExecResult:
    """Run a shell script in a box."""
    return await box.exec(ExecRequest(argv=("/bin/sh", "-c", script), timeout_sec=timeout_sec))


async def in_box(provider: SandboxProvider, spec: BoxSpec, use: Callable[[Sandbox], Awaitable[None]]) -> None:
    """Acquire, use, release."""
    box = await provider.acquire(spec)
    try:
        await use(box)
    finally:
        await provider.release(box)


async def test_a_fresh_box_runs_a_command(provider: SandboxProvider, spec: BoxSpec) -> None:
    async def use(box: Sandbox) -> None:
        result = await shell(box, "pwd; echo problem >&2; exit 3")
        assert (result.exit_code, result.stdout, result.stderr) == (3, spec.workdir.encode() + b"\n", b"problem\n")

    await in_box(provider, spec, use)


async def test_ids_are_unique_and_listed_with_their_owner(provider: SandboxProvider, spec: BoxSpec) -> None:
    mine = spec.model_copy(update={"owner": "suite-a"})
    other = spec.model_copy(update={"owner": "suite-b"})
    a, b = await asyncio.gather(provider.acquire(mine), provider.acquire(other))
    try:
        assert a.id != b.id
        listed = await provider.list("suite-a")
        assert [info.id for info in listed] == [a.id]
        assert {a.id, b.id} <= {info.id for info in await provider.list()}
        info = listed[0]
        assert info.alive and info.provider == provider.name and info.owner == "suite-a"
        assert info.created_at <= datetime.now(UTC)
        assert info.deadline_at is not None and info.deadline_at > info.created_at
    finally:
        await provider.release(a)
        await provider.release(b)
    assert not {a.id, b.id} & {info.id for info in await provider.list()}


async def test_release_twice_is_no_error(provider: SandboxProvider, spec: BoxSpec) -> None:
    box = await provider.acquire(spec)
    await provider.release(box)
    await provider.release(box)


async def test_a_released_box_gives_a_typed_error(provider: SandboxProvider, spec: BoxSpec) -> None:
    box = await provider.acquire(spec)
    await provider.release(box)
    with pytest.raises(EnvfarmError) as caught:
        await shell(box, "true")
    assert caught.value.reason is Reason.box_lost


async def test_release_ends_a_command_under_way(provider: SandboxProvider, spec: BoxSpec) -> None:
    box = await provider.acquire(spec)
    running = asyncio.create_task(shell(box, "sleep 60", timeout_sec=90))
    await asyncio.sleep(0.2)
    await provider.release(box)
    with pytest.raises(EnvfarmError) as caught:
        await asyncio.wait_for(running, 10)
    assert caught.value.reason is Reason.box_lost


async def test_boxes_do_not_see_each_other(provider: SandboxProvider, spec: BoxSpec) -> None:
    a, b = await asyncio.gather(provider.acquire(spec), provider.acquire(spec))
    try:
        await shell(a, "echo secret > /tmp/shared; echo secret > $HOME/shared")
        seen = await shell(b, "ls /tmp $HOME; ls -d /proc/[0-9]* | wc -l")
        assert b"shared" not in seen.stdout
        # the agent, a supervisor or two, the shell and its two helpers
        assert int(seen.stdout.split()[-1]) < 10
    finally:
        await provider.release(a)
        await provider.release(b)


async def test_environment_is_clean_and_takes_the_specs_own(provider: SandboxProvider, spec: BoxSpec) -> None:
    asked = spec.model_copy(update={"env": {"ENVFARM_SUITE": "a b=c"}})

    async def use(box: Sandbox) -> None:
        lines = (await box.exec(ExecRequest(argv=("env",)))).stdout.decode().splitlines()
        names = {line.partition("=")[0] for line in lines}
        assert "ENVFARM_SUITE=a b=c" in lines
        assert names <= {"PATH", "HOME", "LANG", "TMPDIR", "PWD", "ENVFARM_SUITE", "USER", "HOSTNAME"}

    await in_box(provider, asked, use)


async def test_no_network_means_none(provider: SandboxProvider, spec: BoxSpec) -> None:
    if not provider.capabilities().network_none:
        pytest.skip("this provider cannot switch the network off")
    assert spec.network is Network.none

    async def use(box: Sandbox) -> None:
        devices = (await shell(box, "cat /proc/net/dev | tail -n +3 | cut -d: -f1")).stdout.split()
        assert devices in ([], [b"lo"])

    await in_box(provider, spec, use)


async def test_a_box_ends_at_its_wall_limit(provider: SandboxProvider, spec: BoxSpec) -> None:
    short = spec.model_copy(update={"limits": spec.limits.model_copy(update={"wall_sec": 1.0})})
    box = await provider.acquire(short)
    try:
        with pytest.raises(EnvfarmError) as caught:
            await asyncio.wait_for(shell(box, "sleep 30", timeout_sec=60), 20)
        assert caught.value.reason in (Reason.wall_limit, Reason.box_lost)
        patience_sec = 10 if provider.name == "local" else 40  # a kubelet on a busy machine is slow to tell
        for _ in range(20 * patience_sec):
            if not any(info.alive for info in await provider.list() if info.id == box.id):
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail(f"the box is still there {patience_sec} seconds after its limit")
    finally:
        await provider.release(box)


async def test_pids_limit(provider: SandboxProvider, spec: BoxSpec) -> None:
    if not provider.capabilities().pids_limit:
        pytest.skip("this provider has no limit on processes")
    asked = spec.model_copy(update={"limits": Limits(pids=32, wall_sec=60)})

    async def use(box: Sandbox) -> None:
        bomb = "i=0; while [ $i -lt 400 ]; do sleep 20 & i=$((i+1)); done; wait"
        result = await shell(box, bomb)
        assert not result.ok and b"fork" in result.stderr.lower()
        assert (await shell(box, "echo fine")).stdout == b"fine\n"

    await in_box(provider, asked, use)


async def test_memory_limit(provider: SandboxProvider, spec: BoxSpec) -> None:
    if not provider.capabilities().memory_limit:
        pytest.skip("this provider has no limit on a box's memory: " + "; ".join(provider.capabilities().notes))
    asked = spec.model_copy(update={"limits": Limits(memory_mb=128, wall_sec=60)})

    async def use(box: Sandbox) -> None:
        result = await shell(box, "head -c 400M /dev/zero | tail -c 399M | wc -c")
        assert result.oom_killed and result.stdout.strip() != b"418381824"
        again = await shell(box, "echo fine")
        assert again.stdout == b"fine\n" and not again.oom_killed

    await in_box(provider, asked, use)


async def test_disk_limit(provider: SandboxProvider, spec: BoxSpec) -> None:
    if not provider.capabilities().disk_limit:
        pytest.skip("this provider has no limit on scratch space")
    asked = spec.model_copy(update={"limits": Limits(disk_mb=8, memory_mb=256, wall_sec=60)})

    async def use(box: Sandbox) -> None:
        for place in (spec.workdir, "/tmp", "$HOME"):
            result = await shell(box, f"head -c 64M /dev/zero > {place}/big; stat -c %s {place}/big; rm {place}/big")
            assert b"No space left" in result.stderr
            assert int(result.stdout) <= 8 << 20

    await in_box(provider, asked, use)


async def test_file_size_limit(provider: SandboxProvider, spec: BoxSpec) -> None:
    asked = spec.model_copy(update={"limits": Limits(file_size_mb=2, wall_sec=60)})

    async def use(box: Sandbox) -> None:
        result = await shell(box, "head -c 8M /dev/zero > /tmp/big; stat -c %s /tmp/big")
        assert int(result.stdout) <= 2 << 20

    await in_box(provider, asked, use)


async def test_only_scratch_areas_can_be_written(provider: SandboxProvider, spec: BoxSpec) -> None:
    async def use(box: Sandbox) -> None:
        places = "/ /usr /usr/bin /etc /run /var /dev /proc /run/envfarm"
        probe = f"for d in {places}; do touch $d/x 2>/dev/null && echo $d; done; true"
        assert (await shell(box, probe)).stdout == b""
        assert (await shell(box, f"touch {spec.workdir}/x /tmp/x $HOME/x /dev/shm/x && echo fine")).stdout == b"fine\n"

    await in_box(provider, spec, use)


async def test_many_at_once(provider: SandboxProvider, spec: BoxSpec) -> None:
    async def one(number: int) -> bytes:
        box = await provider.acquire(spec)
        try:
            return (await shell(box, f"echo {number}")).stdout
        finally:
            await provider.release(box)

    assert await asyncio.gather(*(one(n) for n in range(16))) == [f"{n}\n".encode() for n in range(16)]


async def test_cancelled_acquire_leaves_nothing(provider: SandboxProvider, spec: BoxSpec) -> None:
    before = {info.id for info in await provider.list()}

    async def cut_off(delay_sec: float) -> None:
        task = asyncio.create_task(provider.acquire(spec))
        await asyncio.sleep(delay_sec)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await provider.release(await task)  # it was faster

    # four at a time, at sixty moments of a start
    for step in range(15):
        await asyncio.gather(*(cut_off((4 * step + turn) * 0.0004) for turn in range(4)))
    assert {info.id for info in await provider.list()} <= before


async def test_bad_mount_is_one_sentence(provider: SandboxProvider, spec: BoxSpec) -> None:
    if not provider.capabilities().mounts:
        pytest.skip("this provider takes no mounts")
    from envfarm.core.box import Mount

    for source, target in (("/nowhere/at/all", "/data"), ("/usr", "/etc/x"), ("relative", "/data"), ("/usr", "data")):
        with pytest.raises(ProviderError) as caught:
            await provider.acquire(spec.model_copy(update={"mounts": (Mount(source=source, target=target),)}))
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
