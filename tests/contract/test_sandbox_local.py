"""The local provider under both contracts, and what only it promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from envfarm.core.base import digest_json
from envfarm.core.box import BoxSpec, ExecRequest, Limits, Mount, Network
from envfarm.core.config import LocalProviderConfig
from envfarm.core.environment import Environment, Layer
from envfarm.core.errors import ProviderError, Reason, SandboxError, Tier
from envfarm.core.ports import Sandbox
from envfarm.sandbox.local import LocalProvider
from envfarm.sandbox.local.reaper import reap_box
from envfarm.sandbox.local.seccomp import seccomp_filter

from .local_home import open_home
from .provider_suite import *  # noqa: F403
from .provider_suite import shell
from .sandbox_suite import *  # noqa: F403


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


@pytest.fixture
async def provider(home: Path) -> AsyncIterator[LocalProvider]:
    async with LocalProvider(home) as entered:
        yield entered
    assert not list((home / "boxes").iterdir())


@pytest.fixture
def spec() -> BoxSpec:
    return BoxSpec(limits=Limits(wall_sec=120))


@pytest.fixture
async def sandbox(provider: LocalProvider) -> AsyncIterator[Sandbox]:
    box = await provider.acquire(BoxSpec(limits=Limits(wall_sec=300)))
    yield box
    await provider.release(box)


def environment(*layers: Layer) -> Environment:
    built = datetime(2026, 1, 1, tzinfo=UTC)
    return Environment(recipe_digest=digest_json({}), toolchain="3.11", layers=layers, built_at=built)


def give(path: Path, uid: int | None) -> None:
    """Make a tree the boxes' user's own."""
    if uid is not None:
        for entry in (path, *path.rglob("*")):
            os.chown(entry, uid, uid, follow_symlinks=False)


@pytest.fixture
def layer(home: Path, provider: LocalProvider) -> Environment:
    source = home / "envs" / "one"
    (source / "bin").mkdir(parents=True, exist_ok=True)
    tool = source / "bin" / "tool"
    tool.write_text("#!/bin/sh\necho from the layer\n")
    tool.chmod(0o755)
    give(source, provider.box_uid)
    return environment(Layer(source="envs/one", target="/env"))


async def test_layers_are_first_on_the_path_and_read_only(provider: LocalProvider, layer: Environment) -> None:
    box = await provider.acquire(BoxSpec(environment=layer))
    assert (await shell(box, "tool")).stdout == b"from the layer\n"
    assert b"Read-only" in (await shell(box, "touch /env/x")).stderr
    await provider.release(box)


async def test_writable_env_is_the_boxs_own(provider: LocalProvider, layer: Environment, home: Path) -> None:
    spec = BoxSpec(environment=layer, writable_env=True)
    first, second = await asyncio.gather(provider.acquire(spec), provider.acquire(spec))
    script = "echo '#!/bin/sh' > /env/bin/tool; rm -f /env/bin/gone; echo x > /env/new; ls /env"
    assert (await shell(first, script)).stdout == b"bin\nnew\n"
    assert (await shell(second, "tool; ls /env")).stdout == b"from the layer\nbin\n"
    for box in (first, second):
        await provider.release(box)
    assert [path.name for path in (home / "envs/one").iterdir()] == ["bin"]


async def test_mounts(provider: LocalProvider, home: Path) -> None:
    folder = home / "mounted"
    folder.mkdir()
    (folder / "file").write_text("content")
    give(folder, provider.box_uid)
    for read_only in (True, False):
        mount = Mount(source=str(folder), target="/data", read_only=read_only)
        box = await provider.acquire(BoxSpec(mounts=(mount,)))
        result = await shell(box, "cat /data/file; echo more > /data/other")
        assert result.stdout == b"content" and result.ok is not read_only
        await provider.release(box)
    assert (folder / "other").read_text() == "more\n"


async def test_a_box_sees_nothing_of_the_host(provider: LocalProvider, home: Path) -> None:
    box = await provider.acquire(BoxSpec())
    script = (
        f"cat /proc/self/mounts; ls {home}; ls -a /root /home /var/lib /srv /run /mnt /sys; cat /etc/passwd; hostname"
    )
    seen = (await shell(box, script)).stdout.decode()
    assert "agent.sock" not in seen and box.id not in seen and str(home) not in seen
    assert "\nbox\n" in seen and "root:x:0:0:root:/root:/bin/sh" in seen
    await provider.release(box)


async def test_no_python_packages_of_the_host(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec())
    script = "for d in /usr/lib/python3/dist-packages /usr/local/lib/python3*/*-packages; do ls -A $d; done 2>/dev/null"
    assert (await shell(box, script)).stdout == b""
    await provider.release(box)


async def test_a_box_has_no_privileges(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec())
    status = (await shell(box, "cat /proc/self/status; id -u")).stdout.decode()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and status.endswith("1000\n")
    probes = {
        "kernel setting": "true >> /proc/sys/kernel/core_pattern",
        "user namespace": "unshare -U true",
        "mount": "mount -t tmpfs x /tmp",
        "agent's memory": "head -c1 /proc/1/mem",
        "agent's descriptors": "ls /proc/1/fd",
        "kill the agent": "kill -9 1; kill -SEGV 1; sleep 0.1; kill -0 1 && exit 1",
        "raw socket": "ping -c1 127.0.0.1",
        "device": "mknod /tmp/d b 259 0",
        "setuid": "su -c true root </dev/null",
        "sysrq": "echo b > /proc/sysrq-trigger",
    }
    for name, script in probes.items():
        result = await shell(box, script)
        assert not result.ok, (name, result)
    await provider.release(box)


async def test_large_kernel_interfaces_are_out_of_reach(provider: LocalProvider) -> None:
    if seccomp_filter() is None:
        pytest.skip("no system call filter for this machine")
    script = (
        "import ctypes, os, platform; libc = ctypes.CDLL(None, use_errno=True)\n"
        "def ask(number): return libc.syscall(number, 0, 0, 0, 0, 0), os.strerror(ctypes.get_errno())\n"
        "keyctl = {'x86_64': 250, 'aarch64': 219}[platform.machine()]\n"
        "print(ask(425), ask(keyctl), libc.getpid() > 0)\n"
    )
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("the system has no python3 to ask with")
    box = await provider.acquire(BoxSpec())
    result = await box.exec(ExecRequest(argv=(str(python), "-c", script)))
    refused = "(-1, 'Operation not permitted')"
    assert result.stdout.decode() == f"{refused} {refused} True\n", result
    await provider.release(box)


async def test_memory_bomb_in_scratch_space_is_the_policys(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec(limits=Limits(memory_mb=96, disk_mb=1024, wall_sec=60)))
    # Pages of a memory-backed file belong to no process: whatever the kernel kills frees nothing.
    try:
        result = await shell(box, "head -c 300M /dev/zero > /tmp/a")
        assert result.oom_killed
    except SandboxError as error:
        assert (error.reason, error.tier) == (Reason.memory_limit, Tier.policy)
    await provider.release(box)


async def test_registry_box_shares_the_network_and_the_certificates(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec(network=Network.registry))
    assert int((await shell(box, "tail -n +3 /proc/net/dev | wc -l")).stdout) >= 1
    assert (await shell(box, 'test -z "$SSL_CERT_FILE" || test -s "$SSL_CERT_FILE"')).ok
    await provider.release(box)


async def test_without_cgroups_limits_are_the_processes_own(home: Path) -> None:
    async with LocalProvider(home, LocalProviderConfig(use_cgroups=False)) as provider:
        assert not provider.capabilities().memory_limit
        assert any("each process by itself" in note for note in provider.capabilities().notes)
        box = await provider.acquire(BoxSpec(limits=Limits(memory_mb=256, pids=32, wall_sec=60)))
        assert not (await shell(box, "head -c 600M /dev/zero | tail -c 599M | wc -c | grep 628097024")).ok
        bomb = "i=0; while [ $i -lt 400 ]; do sleep 20 & i=$((i+1)); done; wait"
        assert b"fork" in (await shell(box, bomb)).stderr.lower()
        assert (await shell(box, "echo fine")).stdout == b"fine\n"
        await provider.release(box)


async def test_a_dead_box_is_listed_as_dead(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec())
    (info,) = await provider.list()
    assert info.pid is not None
    os.kill(info.pid, signal.SIGKILL)
    with pytest.raises(SandboxError) as caught:
        await shell(box, "sleep 5")
    assert caught.value.reason is Reason.box_lost
    assert [info.alive for info in await provider.list()] == [False]
    await provider.release(box)
    assert await provider.list() == []


async def test_attach_and_remove_by_id(provider: LocalProvider, home: Path) -> None:
    box = await provider.acquire(BoxSpec(owner="somebody"))
    async with LocalProvider(home) as other:
        attached = await other.attach(box.id)
        assert (await shell(attached, "echo same box")).stdout == b"same box\n"
        await other.remove(box.id)
        assert await other.list() == []
        for name in (box.id, "box-000000000000", "../boxes", ""):
            with pytest.raises(ProviderError) as caught:
                await other.attach(name)
            assert caught.value.reason is Reason.box_not_found
    await provider.release(box)


def test_boxes_outlive_the_thread_that_asked_for_them(home: Path) -> None:
    found: dict[str, list[bool]] = {}

    def work() -> None:
        async def run() -> None:
            async with LocalProvider(home) as provider:
                started = await asyncio.to_thread(_start_in_thread, home)
                found["alive"] = [info.alive for info in await provider.list() if info.id == started]

        asyncio.run(run())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == {"alive": [True]}
    for folder in (home / "boxes").iterdir():
        reap_box(next((home / "bin").glob("*/agent")), folder)


def _start_in_thread(home: Path) -> str:
    """Start a box on an event loop of a thread that ends at once, and leave it running."""
    kept: list[object] = []

    def short_lived() -> None:
        async def run() -> str:
            provider = LocalProvider(home)
            await provider.__aenter__()
            box = await provider.acquire(BoxSpec())
            kept.extend((provider, box))
            return box.id

        kept.append(asyncio.run(run()))

    thread = threading.Thread(target=short_lived)
    thread.start()
    thread.join()
    time.sleep(0.3)
    return str(kept[-1])


_CHILD = """
import asyncio, sys
from pathlib import Path
from envfarm.core.box import BoxSpec, ExecRequest
from envfarm.sandbox.local import LocalProvider

async def main():
    async with LocalProvider(Path(sys.argv[1])) as provider:
        boxes = [await provider.acquire(BoxSpec()) for _ in range(int(sys.argv[2]))]
        script = "trap '' TERM HUP INT; setsid sh -c 'while :; do :; done' & nohup sleep 900 & wait"
        running = [asyncio.create_task(b.exec(ExecRequest(argv=("sh", "-c", script)))) for b in boxes]
        for box in boxes:
            await box.exec(ExecRequest(argv=("true",)))
        print("ready", flush=True)
        await asyncio.gather(*running)

asyncio.run(main())
"""


def _owner(home: Path, boxes: int) -> subprocess.Popen[str]:
    """A process with that many busy boxes."""
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(home), str(boxes)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def _kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def processes_below(root: Path) -> list[str]:
    """Command lines of living processes that have something to do with ``root``."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(root) in line and entry.name != str(os.getpid()):
                found.append(line)
    return found


def leftovers(home: Path, pids: list[int], ids: list[str]) -> list[str]:
    """What is still there of boxes."""
    left = [f"pid {pid}" for pid in pids if Path(f"/proc/{pid}").exists()]
    left += processes_below(home)
    left += [str(path) for path in (home / "boxes").iterdir()]
    # os.walk, because folders disappear while it looks
    left += [f"{root}/{name}" for root, folders, _ in os.walk("/sys/fs/cgroup") for name in set(folders) & set(ids)]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(home) in line]
    return left


def test_nothing_is_left_after_kill_9() -> None:
    with open_home() as home:
        child = _owner(home, 8)
        ids = [path.name for path in (home / "boxes").iterdir()]
        pids = _members(ids)
        assert len(ids) == 8 and len(pids) >= 8 * 4
        _kill(child)
        killed_at = time.monotonic()
        while left := leftovers(home, pids, ids):
            assert time.monotonic() - killed_at < 5, left
            time.sleep(0.05)


def _members(ids: list[str]) -> list[int]:
    """Host pids in the boxes, by their cgroups."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(name in (entry / "cgroup").read_text() for name in ids):
                found.append(int(entry.name))
    return found


async def test_the_next_start_sweeps_what_a_killed_reaper_left() -> None:
    with open_home() as home:
        child = _owner(home, 2)
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if b"reap" in line and str(home).encode() in line:
                    os.kill(int(entry.name), signal.SIGKILL)
        _kill(child)
        assert len(list((home / "boxes").iterdir())) == 2
        async with LocalProvider(home) as provider:
            assert await provider.list() == []
            assert not list((home / "boxes").iterdir())


async def test_a_long_home_path_works() -> None:
    with open_home() as short:
        home = short / ("long-" * 20) / ("long-" * 20)
        async with LocalProvider(home) as provider:
            box = await provider.acquire(BoxSpec())
            assert (await shell(box, "echo fine")).stdout == b"fine\n"
            await provider.release(box)


async def test_acquire_before_entering_is_an_error(home: Path) -> None:
    with pytest.raises(ProviderError):
        await LocalProvider(home).acquire(BoxSpec())


async def test_exec_limits_do_not_leak_into_results(sandbox: Sandbox) -> None:
    result = await sandbox.exec(ExecRequest(argv=("sh", "-c", "ulimit -c"), cwd="/tmp"))
    assert result.stdout == b"0\n"
