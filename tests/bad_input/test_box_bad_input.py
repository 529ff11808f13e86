"""Boxes under hostile commands and on machines that cannot run them: contained, one sentence, nothing left."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import envfarm
from envfarm.core.box import BoxSpec, ExecRequest, ExecResult, Limits, Mount
from envfarm.core.config import LocalProviderConfig
from envfarm.core.environment import Environment, Layer
from envfarm.core.errors import ProviderError, Reason
from envfarm.core.ports import Sandbox
from envfarm.sandbox.local import LocalProvider
from envfarm.sandbox.local.binaries import find_bwrap


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="envfarm-test-"))
    folder.chmod(0o755)  # the boxes' user must be able to enter; pytest's own folders forbid it
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def provider(home: Path) -> AsyncIterator[LocalProvider]:
    async with LocalProvider(home) as entered:
        yield entered
    assert not list((home / "boxes").iterdir())


async def shell(box: Sandbox, script: str, timeout_sec: float = 20.0) -> ExecResult:
    return await box.exec(ExecRequest(argv=("/bin/sh", "-c", script), timeout_sec=timeout_sec))


def assert_one_sentence(error: ProviderError, reason: Reason, *parts: str) -> None:
    assert error.reason is reason
    assert error.remedy
    for part in parts:
        assert part in str(error)
    assert "\n" not in str(error)


async def test_fork_bomb(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec(limits=Limits(pids=64, wall_sec=60)))
    bomb = "f() { f | f & f; }; f"
    begin = time.monotonic()
    result = await shell(box, bomb, timeout_sec=3)
    assert not result.ok and time.monotonic() - begin < 15
    # The supervisor is not starved, and nothing of the bomb is left.
    again = await shell(box, "echo fine; ls -d /proc/[0-9]* | wc -l")
    assert again.stdout.startswith(b"fine\n") and int(again.stdout.split()[1]) < 10
    await provider.release(box)


async def test_memory_bomb_spares_the_neighbour(provider: LocalProvider) -> None:
    if not provider.capabilities().memory_limit:
        pytest.skip("no memory limit for a whole box here: " + "; ".join(provider.capabilities().notes))
    spec = BoxSpec(limits=Limits(memory_mb=128, wall_sec=60))
    box, neighbour = await asyncio.gather(provider.acquire(spec), provider.acquire(spec))
    running = asyncio.create_task(shell(neighbour, "sleep 1; echo untouched"))
    result = await shell(box, "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
    assert result.oom_killed and not result.ok
    assert (await running).stdout == b"untouched\n"
    assert (await shell(box, "echo fine")).stdout == b"fine\n"
    for each in (box, neighbour):
        await provider.release(each)


async def test_disk_fill(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec(limits=Limits(disk_mb=16, wall_sec=60)))
    fill = "i=0; while head -c 4M /dev/zero > /repo/$i; do i=$((i+1)); [ $i -gt 100 ] && exit 9; done; du -sm /repo"
    result = await shell(box, fill)
    assert b"No space left" in result.stderr and int(result.stdout.split()[0]) <= 17
    assert (await shell(box, "rm /repo/*; echo fine > /repo/x && cat /repo/x")).stdout == b"fine\n"
    await provider.release(box)


async def test_many_small_files_do_not_end_the_box(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec(limits=Limits(disk_mb=4, memory_mb=256, wall_sec=60)))
    await shell(box, "i=0; while [ $i -lt 20000 ] && echo x > /repo/$i; do i=$((i+1)); done", timeout_sec=30)
    assert (await shell(box, "echo fine")).stdout == b"fine\n"
    await provider.release(box)


async def test_hang(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec())
    result = await shell(box, "sleep 1000", timeout_sec=0.5)
    assert result.timed_out and not result.ok and result.duration_sec < 5
    await provider.release(box)


async def test_daemon_that_ignores_sigterm_ends_with_its_command(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec())
    daemon = "setsid nohup sh -c 'trap \"\" TERM HUP INT; while :; do sleep 0.05; done' >/dev/null 2>&1 &"
    assert (await shell(box, daemon)).ok
    counted = await shell(box, "grep -l '[s]leep 0.05' /proc/[0-9]*/cmdline | wc -l")
    assert int(counted.stdout) == 0
    begin = time.monotonic()
    await provider.release(box)
    assert time.monotonic() - begin < 5


async def test_output_flood(provider: LocalProvider) -> None:
    box = await provider.acquire(BoxSpec())
    request = ExecRequest(argv=("sh", "-c", "yes | head -c 200M"), output_limit_bytes=1 << 20, timeout_sec=60)
    result = await box.exec(request)
    assert result.ok and len(result.stdout) <= 1 << 20
    assert len(result.stdout) + result.stdout_cut_bytes == 200 << 20
    await provider.release(box)


@pytest.mark.parametrize(
    "change",
    [
        {"env": {"": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"A": "x\0y"}},
        {"workdir": "repo"},
        {"workdir": "/"},
        {"workdir": "/usr/local"},
        {"mounts": (Mount(source="/nowhere", target="/data"),)},
        {"mounts": (Mount(source="usr", target="/data"),)},
        {"mounts": (Mount(source="/usr", target="/proc/x"),)},
        {"mounts": (Mount(source="/usr", target="/env/../etc"),)},
    ],
)
async def test_spec_that_cannot_be_used(provider: LocalProvider, change: dict[str, object]) -> None:
    with pytest.raises(ProviderError) as caught:
        await provider.acquire(BoxSpec().model_copy(update=change))
    assert_one_sentence(caught.value, Reason.config)
    assert await provider.list() == []


@pytest.mark.parametrize("source", ["/etc", "../x", "envs/absent"])
async def test_layer_that_cannot_be_used(provider: LocalProvider, source: str) -> None:
    layers = (Layer(source=source, target="/env"),)
    environment = Environment(recipe_digest="x", toolchain="", layers=layers, built_at=datetime.now(UTC))
    with pytest.raises(ProviderError) as caught:
        await provider.acquire(BoxSpec(environment=environment))
    assert_one_sentence(caught.value, Reason.config, source)


async def test_closed_home() -> None:
    if os.geteuid() != 0:
        pytest.skip("boxes run as this user, who can always enter its own folders")
    closed = Path(tempfile.mkdtemp(prefix="envfarm-test-"))
    try:
        with pytest.raises(ProviderError) as caught:
            async with LocalProvider(closed / "home"):
                pass
        assert_one_sentence(caught.value, Reason.config, str(closed), "chmod o+x", "--home")
    finally:
        shutil.rmtree(closed)


async def test_home_that_is_a_file(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(ProviderError) as caught:
        async with LocalProvider(home / "file"):
            pass
    assert_one_sentence(caught.value, Reason.box_start_failed, "file")


@pytest.mark.parametrize("uid", [0, -1, (1 << 32) - 1, 1 << 40])
async def test_user_id_that_gives_up_nothing(home: Path, uid: int) -> None:
    """To the kernel -1 means "as it is", which is root: such an id must not start a box."""
    if os.geteuid() != 0:
        pytest.skip("provider.uid is ignored unless we are root")
    async with LocalProvider(home, LocalProviderConfig(uid=uid)) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.acquire(BoxSpec())
        assert_one_sentence(caught.value, Reason.box_start_failed, "provider.uid")
        assert await provider.list() == []


_CHILD = """
import asyncio, sys
from pathlib import Path
from envfarm.core.box import BoxSpec
from envfarm.core.errors import EnvfarmError
from envfarm.sandbox.local import LocalProvider

async def main():
    try:
        async with LocalProvider(Path(sys.argv[1])) as provider:
            await provider.acquire(BoxSpec())
            print("started")
    except EnvfarmError as error:
        print(error.reason, "|", error)
    left = list((Path(sys.argv[1]) / "boxes").glob("*"))
    print("left:", left)

asyncio.run(main())
"""


def test_no_bubblewrap(home: Path) -> None:
    environ = {**os.environ, "ENVFARM_BWRAP": "/nowhere/bwrap"}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(home)], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("no_bubblewrap | ENVFARM_BWRAP names /nowhere/bwrap, which is not a program.")
    assert "left: []" in done.stdout


def test_no_agent(home: Path) -> None:
    environ = {**os.environ, "ENVFARM_AGENT": "/nowhere/agent"}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(home)], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("no_agent | ") and "left: []" in done.stdout


@pytest.mark.parametrize("program", ["ENVFARM_BWRAP", "ENVFARM_AGENT"])
def test_program_that_fails_at_once(home: Path, program: str) -> None:
    """A bubblewrap or an agent of the wrong kind: the box ends at its start, and its own words are passed on."""
    fake = home / "fake"
    fake.write_text("#!/bin/sh\necho 'no such machine' >&2\nexit 7\n")
    fake.chmod(0o755)
    environ = {**os.environ, program: str(fake)}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(home)], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("box_start_failed | ") and "no such machine" in done.stdout
    assert "left: []" in done.stdout


def as_ordinary_user(*options: str, covered_proc: bool = False) -> str:
    """What ``_CHILD`` prints as an ordinary user, without cgroups, in a container of its own."""
    repository = str(Path(envfarm.__file__).resolve().parents[1])
    binds: list[str] = []
    for path in dict.fromkeys(str(Path(p).resolve()) for p in (sys.base_prefix, sys.prefix, repository)):
        binds += ["--ro-bind", path, path]
    command = [str(find_bwrap()), "--unshare-user", "--uid", "1000", "--gid", "1000", *options, "--die-with-parent"]
    for link in ("lib", "lib64", "bin"):
        command += ["--symlink", f"usr/{link}", f"/{link}"]
    # The checkout may itself lie below /tmp: it is bound over the empty one.
    command += ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--tmpfs", "/tmp", *binds]
    # Where parts of /proc are covered the kernel refuses a fresh one further in.
    command += ["--unshare-pid", "--proc", "/proc"] if covered_proc else ["--bind", "/proc", "/proc"]
    command += ["--dev", "/dev"]
    command += ["--", sys.executable, "-c", _CHILD, "/tmp/home"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_user_namespaces() -> None:
    """The kernel's own refusal, not a made-up one: the container may not make user namespaces."""
    output = as_ordinary_user("--disable-userns")
    assert output.startswith("no_user_namespaces | This machine does not let the boxes' user"), output
    assert "sysctl" in output and "left: []" in output


def test_container_that_covers_its_proc() -> None:
    if os.geteuid() != 0:
        pytest.skip("bubblewrap covers parts of /proc only when it is started by root")
    output = as_ordinary_user(covered_proc=True)
    assert output.startswith("box_start_failed | The kernel refused a box its own /proc"), output
    assert "left: []" in output


def test_an_ordinary_user_needs_nothing_but_user_namespaces() -> None:
    assert as_ordinary_user() == "started\nleft: []\n"


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk can only be mounted by root")
    folder = Path(tempfile.mkdtemp(prefix="envfarm-test-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "envfarm-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


async def test_full_disk_at_start(disk: Path) -> None:
    async with LocalProvider(disk) as provider:
        with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"\0" * 65536)
        with pytest.raises(ProviderError) as caught:
            await provider.acquire(BoxSpec())
        assert_one_sentence(caught.value, Reason.disk_full, "--home")
        (disk / "ballast").unlink()
        assert await provider.list() == []
        await provider.release(await provider.acquire(BoxSpec()))
