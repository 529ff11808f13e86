"""The contract of the Sandbox port. A module that runs it imports these tests and defines the fixture ``sandbox``.

``sandbox`` is a fresh box with a POSIX shell and coreutils and a writable /tmp. The box may hold nothing else.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from collections.abc import Callable

import pytest

from envfarm.core.box import ExecRequest, ExecResult
from envfarm.core.errors import Reason, SandboxError
from envfarm.core.ports import Sandbox

TOP = "/tmp/suite"


def sh(script: str, **fields: object) -> ExecRequest:
    return ExecRequest.model_validate({"argv": ("sh", "-c", script), "cwd": "/tmp", **fields})


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, link, mode, 1_600_000_000
    return info, content


async def text_of(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.exec(sh(script))
    assert result.ok, result
    return result.stdout.decode()


async def until_zero(sandbox: Sandbox, count: str, patience_sec: float = 5.0) -> None:
    """Wait until the shell command ``count`` prints 0."""
    end = time.monotonic() + patience_sec
    while (left := (await text_of(sandbox, count)).strip()) != "0":
        assert time.monotonic() < end, f"{left} processes are left"
        await asyncio.sleep(0.05)


def marked(mark: str) -> str:
    """A shell command that counts the living processes with ``mark`` in their command line, itself not among them."""
    half = len(mark) // 2
    return (
        f"n=0; for f in /proc/[0-9]*/cmdline; do "
        f"if tr '\\0' ' ' <$f 2>/dev/null | grep -q '{mark[:half]}''{mark[half:]}'; then n=$((n+1)); fi; done; echo $n"
    )


# exec: results


async def test_streams_and_exit_status_come_back_apart(sandbox: Sandbox):
    result = await sandbox.exec(sh("printf out; printf err >&2; exit 7"))
    assert (result.stdout, result.stderr) == (b"out", b"err")
    assert (result.exit_code, result.signal, result.ok) == (7, None, False)


async def test_output_is_byte_exact(sandbox: Sandbox):
    result = await sandbox.exec(sh("cat"), stdin=bytes(range(256)) * 5000)
    assert result.stdout == bytes(range(256)) * 5000


async def test_death_by_signal_is_no_exit_status(sandbox: Sandbox):
    result = await sandbox.exec(sh("kill -TERM $$"))
    assert (result.exit_code, result.signal, result.ok) == (None, 15, False)


async def test_missing_program_is_a_result_as_in_a_shell(sandbox: Sandbox):
    result = await sandbox.exec(ExecRequest(argv=("no-such-program",), cwd="/tmp"))
    assert result.exit_code == 127
    assert b"no-such-program" in result.stderr


async def test_program_without_permission_is_126(sandbox: Sandbox):
    await text_of(sandbox, "echo '#!/bin/sh' >/tmp/plain && chmod 644 /tmp/plain")
    assert (await sandbox.exec(ExecRequest(argv=("/tmp/plain",), cwd="/tmp"))).exit_code == 126


async def test_missing_working_directory_is_named(sandbox: Sandbox):
    result = await sandbox.exec(ExecRequest(argv=("true",), cwd="/tmp/not-there"))
    assert not result.ok
    assert b"/tmp/not-there" in result.stderr


async def test_environment_is_added_and_cwd_is_entered(sandbox: Sandbox):
    result = await sandbox.exec(sh("pwd; echo $GREETING", env={"GREETING": "grüß dich"}))
    assert result.stdout.decode() == "/tmp\ngrüß dich\n"


async def test_arguments_are_not_given_to_a_shell(sandbox: Sandbox):
    result = await sandbox.exec(ExecRequest(argv=("echo", "$HOME", ";", "*", "a  b"), cwd="/tmp"))
    assert result.stdout == b"$HOME ; * a  b\n"


async def test_output_arrives_while_the_command_runs(sandbox: Sandbox):
    arrived: list[tuple[str, bytes, float]] = []
    begin = time.monotonic()
    await sandbox.exec(
        sh("echo one; sleep 0.4; echo two >&2"),
        on_output=lambda stream, data: arrived.append((stream, data, time.monotonic() - begin)),
    )
    assert [(stream, data) for stream, data, _ in arrived] == [("stdout", b"one\n"), ("stderr", b"two\n")]
    assert arrived[0][2] < 0.35 < arrived[1][2]


async def test_without_stdin_the_command_reads_its_end(sandbox: Sandbox):
    assert (await sandbox.exec(sh("cat; echo done", timeout_sec=5))).stdout == b"done\n"


async def test_stdin_that_nobody_reads_does_no_harm(sandbox: Sandbox):
    result = await sandbox.exec(sh("exit 4"), stdin=b"x" * (3 << 20))
    assert result.exit_code == 4


async def test_accounting(sandbox: Sandbox):
    result = await sandbox.exec(sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 0.1"))
    assert result.duration_sec > 0.1
    assert 0.005 < result.cpu_sec < 5
    assert result.max_rss_kb > 100


async def test_commands_run_in_parallel(sandbox: Sandbox):
    begin = time.monotonic()
    results = await asyncio.gather(*(sandbox.exec(sh(f"sleep 0.5; echo {n}")) for n in range(8)))
    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(8)]
    assert time.monotonic() - begin < 2.5


# exec: the report pipe


async def test_report_pipe_is_descriptor_3_and_private(sandbox: Sandbox):
    result = await sandbox.exec(sh("echo public; echo verdict >&3", report_fd=True))
    assert (result.stdout, result.report) == (b"public\n", b"verdict\n")


async def test_there_is_no_report_pipe_unless_asked_for(sandbox: Sandbox):
    result = await sandbox.exec(sh("(echo forged >&3) 2>/dev/null || echo closed"))
    assert (result.stdout, result.report) == (b"closed\n", b"")


async def test_report_beyond_its_limit_is_counted(sandbox: Sandbox):
    result = await sandbox.exec(sh("head -c 5000 /dev/zero >&3", report_fd=True, report_limit_bytes=1000))
    assert (result.report, result.report_cut_bytes) == (bytes(1000), 4000)


async def test_a_command_has_no_other_descriptors(sandbox: Sandbox):
    # The shell may hold a descriptor of its own for the folder it lists.
    assert set((await text_of(sandbox, "for f in /proc/self/fd/*; do echo ${f##*/}; done")).split()) <= {
        "0",
        "1",
        "2",
        "3",
    }
    held = await sandbox.exec(sh("ls -l /proc/$$/fd"))
    assert b"socket:" not in held.stdout


# exec: bounds


async def test_deadline_kills_and_says_so(sandbox: Sandbox):
    begin = time.monotonic()
    result = await sandbox.exec(sh("echo before; sleep 60; echo after", timeout_sec=0.5))
    assert result.timed_out and not result.ok and result.exit_code is None and result.signal == 9
    assert result.stdout == b"before\n"
    assert time.monotonic() - begin < 3


async def test_deadline_reaches_what_ignores_polite_signals(sandbox: Sandbox):
    result = await sandbox.exec(sh("trap '' TERM INT HUP; while :; do sleep 60; done", timeout_sec=0.3))
    assert result.timed_out


async def test_head_and_tail_of_long_output_are_kept(sandbox: Sandbox):
    result = await sandbox.exec(sh("seq 1 100000", output_limit_bytes=1000))
    whole = b"".join(b"%d\n" % n for n in range(1, 100001))
    assert result.stdout == whole[:500] + whole[-500:]
    assert result.stdout_cut_bytes == len(whole) - 1000


async def test_output_at_its_limit_is_whole(sandbox: Sandbox):
    result = await sandbox.exec(sh("head -c 1001 /dev/zero", output_limit_bytes=1001))
    assert (len(result.stdout), result.stdout_cut_bytes) == (1001, 0)


async def test_a_gibibyte_of_output_is_survived(sandbox: Sandbox):
    result = await sandbox.exec(sh("head -c 1073741824 /dev/zero; printf end", timeout_sec=120))
    assert len(result.stdout) == 4 << 20
    assert result.stdout_cut_bytes == (1 << 30) + 3 - (4 << 20)
    assert result.stdout.endswith(b"end")


# exec: nothing outlives its command


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("sleep 4711 &", id="background"),
        pytest.param("nohup sleep 4711 >/dev/null 2>&1 &", id="nohup"),
        pytest.param("setsid sleep 4711 >/dev/null 2>&1 &", id="setsid"),
        pytest.param("(setsid sh -c 'setsid sleep 4711 & sleep 0' >/dev/null 2>&1 &) ; sleep 0.1", id="double-fork"),
        pytest.param("trap '' TERM; (trap '' TERM HUP; setsid sleep 4711) &", id="deaf"),
    ],
)
async def test_no_descendant_outlives_the_command(sandbox: Sandbox, script: str):
    result = await sandbox.exec(sh(f"{script}\necho done", timeout_sec=20))
    assert result.ok and result.stdout == b"done\n" and result.duration_sec < 5
    assert (await text_of(sandbox, marked("sleep 4711"))).strip() == "0"


async def test_no_descendant_outlives_the_deadline(sandbox: Sandbox):
    result = await sandbox.exec(sh("setsid sleep 4712 & sleep 4712", timeout_sec=0.3))
    assert result.timed_out
    assert (await text_of(sandbox, marked("sleep 4712"))).strip() == "0"


async def test_a_descendant_cannot_hold_the_result_back(sandbox: Sandbox):
    # It inherits the output pipe and never closes it.
    result = await sandbox.exec(sh("setsid sleep 4713 & echo done", timeout_sec=20))
    assert result.stdout == b"done\n" and result.duration_sec < 5


async def test_a_cancelled_call_ends_its_command(sandbox: Sandbox):
    call = asyncio.create_task(sandbox.exec(sh("setsid sleep 4714 & sleep 4714")))
    await asyncio.sleep(0.3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_zero(sandbox, marked("sleep 4714"))


async def test_one_command_does_not_end_another(sandbox: Sandbox):
    other = asyncio.create_task(sandbox.exec(sh("setsid sleep 0.8 & wait; echo survived")))
    await asyncio.sleep(0.2)
    await sandbox.exec(sh("setsid sleep 4715 & sleep 4715", timeout_sec=0.2))
    assert (await other).stdout == b"survived\n"


# exec: a hostile command


async def test_killing_the_supervisor_is_never_a_success(sandbox: Sandbox):
    result = await sandbox.exec(sh("setsid sleep 4716 & kill -9 $PPID; sleep 0.2; exit 0", timeout_sec=20))
    assert not result.ok and result.exit_code is None and result.signal is not None
    assert (await text_of(sandbox, marked("sleep 4716"))).strip() == "0"


async def test_stopping_the_supervisor_does_not_stop_the_deadline(sandbox: Sandbox):
    begin = time.monotonic()
    result = await sandbox.exec(sh("kill -STOP $PPID; setsid sleep 4717 & exit 0", timeout_sec=0.5))
    assert not result.ok and result.timed_out
    assert time.monotonic() - begin < 10
    assert (await text_of(sandbox, marked("sleep 4717"))).strip() == "0"


async def test_a_supervisor_waiting_for_work_cannot_be_turned(sandbox: Sandbox):
    # Whatever a command does to every process it can reach, the next one still gives its own result.
    for signal in ("STOP", "KILL"):
        await sandbox.exec(
            sh(
                f"for p in /proc/[0-9]*; do p=${{p##*/}}; [ $p = $$ ] || [ $p = 1 ] || kill -{signal} $p; done",
                timeout_sec=1,
            )
        )
        assert (await sandbox.exec(sh("echo fine", timeout_sec=5))).stdout == b"fine\n"


# exec: idempotency


def keyed(script: str, key: str = "k1", **fields: object) -> ExecRequest:
    return sh(script, idempotency_key=key, **fields)


async def test_a_retried_call_returns_the_first_result(sandbox: Sandbox):
    request = keyed("echo x >>/tmp/count; echo out; echo err >&2; echo rep >&3; exit 3", report_fd=True)
    first, again = await sandbox.exec(request), await sandbox.exec(request)
    assert not first.replayed and again.replayed
    assert again.model_dump(exclude={"replayed"}) == first.model_dump(exclude={"replayed"})
    assert await text_of(sandbox, "cat /tmp/count") == "x\n"


async def test_calls_of_one_key_at_once_are_one_run(sandbox: Sandbox):
    request = keyed("echo x >>/tmp/count; sleep 0.3; echo out")
    results = await asyncio.gather(*(sandbox.exec(request) for _ in range(4)))
    assert sorted(result.replayed for result in results) == [False, True, True, True]
    assert {result.stdout for result in results} == {b"out\n"}
    assert await text_of(sandbox, "cat /tmp/count") == "x\n"


async def test_a_keyed_command_survives_its_caller(sandbox: Sandbox):
    request = keyed("echo x >>/tmp/count; sleep 0.5; echo out")
    call = asyncio.create_task(sandbox.exec(request))
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    result = await sandbox.exec(request)
    assert result.ok and result.replayed and result.stdout == b"out\n"
    assert await text_of(sandbox, "cat /tmp/count") == "x\n"


async def test_a_key_belongs_to_one_command(sandbox: Sandbox):
    await sandbox.exec(keyed("echo a"))
    with pytest.raises(SandboxError) as caught:
        await sandbox.exec(keyed("echo b"))
    assert caught.value.reason is Reason.protocol


# put, get, stat


async def test_what_is_put_comes_back(sandbox: Sandbox):
    archive = tar(
        entry("a/", kind=tarfile.DIRTYPE, mode=0o755),
        entry("a/tool", b"#!/bin/sh\necho ran\n", mode=0o755),
        entry("a/link", kind=tarfile.SYMTYPE, link="../b.bin"),
        entry("b.bin", bytes(range(256)) * 3000),
        entry("deep/er/ümlaut " + "n" * 150, b"implied folders"),
    )
    await sandbox.put(TOP, archive)
    assert await text_of(sandbox, f"{TOP}/a/tool") == "ran\n"
    with tarfile.open(fileobj=io.BytesIO(await sandbox.get(TOP))) as back:
        names = [member.name for member in back]
        assert (
            names
            == sorted(names)
            == ["a", "a/link", "a/tool", "b.bin", "deep", "deep/er", "deep/er/ümlaut " + "n" * 150]
        )
        assert back.getmember("a/link").linkname == "../b.bin"
        assert (back.getmember("a/tool").mode, back.getmember("a/tool").mtime) == (0o755, 1_600_000_000)
        content = back.extractfile("b.bin")
        assert content is not None and content.read() == bytes(range(256)) * 3000


async def test_get_is_deterministic(sandbox: Sandbox):
    await text_of(
        sandbox, f"mkdir -p {TOP}/d && cd {TOP} && for n in c a b; do echo $n >$n; done && touch -d @1000 * ."
    )
    first = await sandbox.get(TOP)
    await text_of(sandbox, f"cd {TOP} && rm b && echo b >b && touch -d @1000.75 b")
    assert await sandbox.get(TOP) == first


async def test_get_of_one_file(sandbox: Sandbox):
    await text_of(sandbox, "printf content >/tmp/one")
    with tarfile.open(fileobj=io.BytesIO(await sandbox.get("/tmp/one"))) as back:
        assert back.getnames() == ["one"]


async def test_get_leaves_out_what_is_no_file(sandbox: Sandbox):
    await text_of(sandbox, f"mkdir {TOP} && cd {TOP} && mkfifo pipe && ln -s /etc/passwd link && echo x >file")
    with tarfile.open(fileobj=io.BytesIO(await sandbox.get(TOP))) as back:
        assert back.getnames() == ["file", "link"]
        assert back.getmember("link").issym()


async def test_get_refuses_more_than_its_limit(sandbox: Sandbox):
    await text_of(sandbox, f"mkdir {TOP} && truncate -s 100M {TOP}/big")
    with pytest.raises(SandboxError) as caught:
        await sandbox.get(TOP, limit_bytes=1 << 20)
    assert caught.value.reason is Reason.archive_refused


async def test_get_of_nothing_is_an_error(sandbox: Sandbox):
    with pytest.raises(SandboxError) as caught:
        await sandbox.get("/tmp/not-there")
    assert caught.value.reason is Reason.path_unusable


async def test_put_replaces_what_is_there(sandbox: Sandbox):
    await text_of(
        sandbox,
        f"mkdir -p {TOP}/was-dir/x {TOP}/kept && cd {TOP} && echo old >kept/old && echo precious >/tmp/outside"
        f" && ln -s /tmp/outside was-link && ln -s /tmp was-dirlink && echo one >hard && ln hard /tmp/hard",
    )
    await sandbox.put(
        TOP,
        tar(
            entry("was-dir", b"file"),
            entry("kept/", kind=tarfile.DIRTYPE, mode=0o755),
            entry("kept/new", b"new"),
            entry("was-link", b"file"),
            entry("was-dirlink/", kind=tarfile.DIRTYPE, mode=0o755),
            entry("was-dirlink/in", b"in"),
            entry("hard", b"two"),
        ),
    )
    assert (
        await text_of(sandbox, f"cd {TOP} && cat was-dir was-link kept/old kept/new was-dirlink/in")
        == "filefileold\nnewin"
    )
    assert (
        await text_of(sandbox, "cat /tmp/outside /tmp/hard; ls /tmp/in 2>/dev/null || echo none")
        == "precious\none\nnone\n"
    )


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("../evil", b"x")], id="climbs"),
        pytest.param([entry("a/../../evil", b"x")], id="climbs-inside"),
        pytest.param([entry("/tmp/evil", b"x")], id="absolute"),
        pytest.param([entry("l", kind=tarfile.SYMTYPE, link="/etc")], id="absolute-link"),
        pytest.param([entry("d/l", kind=tarfile.SYMTYPE, link="../../evil")], id="link-climbs"),
        pytest.param([entry("l", kind=tarfile.SYMTYPE, link="d/../../evil")], id="link-climbs-inside"),
        pytest.param([entry("l", kind=tarfile.SYMTYPE, link="d"), entry("l/evil", b"x")], id="through-link"),
        pytest.param([entry("f", b"x"), entry("h", kind=tarfile.LNKTYPE, link="f")], id="hard-link"),
        pytest.param([entry("p", kind=tarfile.FIFOTYPE)], id="fifo"),
        pytest.param([entry("c", kind=tarfile.CHRTYPE)], id="character-device"),
        pytest.param([entry("b", kind=tarfile.BLKTYPE)], id="block-device"),
        pytest.param([entry("n" * 5000, b"x")], id="long-name"),
        pytest.param([entry(".", b"x")], id="target-itself"),
    ],
)
async def test_unsafe_archives_are_refused(sandbox: Sandbox, entries: list[tuple[tarfile.TarInfo, bytes]]):
    with pytest.raises(SandboxError) as caught:
        await sandbox.put(TOP, tar(*entries))
    assert caught.value.reason is Reason.archive_refused
    assert await text_of(sandbox, "find / -name 'evil*' 2>/dev/null | wc -l") == "0\n"


async def test_a_planted_link_is_not_written_through(sandbox: Sandbox):
    await text_of(sandbox, f"mkdir -p {TOP} /tmp/other && ln -s /tmp/other {TOP}/sub")
    with pytest.raises(SandboxError) as caught:
        await sandbox.put(TOP, tar(entry("sub/file", b"x")))
    assert caught.value.reason is Reason.archive_refused
    assert await text_of(sandbox, "ls /tmp/other") == ""


@pytest.mark.parametrize("damage", [lambda a: a[:700], lambda a: b"\xff" * 2000, lambda a: a[:100] + b"Z" + a[101:]])
async def test_broken_archives_are_refused(sandbox: Sandbox, damage: Callable[[bytes], bytes]):
    with pytest.raises(SandboxError) as caught:
        await sandbox.put(TOP, damage(tar(entry("f", b"x" * 1000))))
    assert caught.value.reason is Reason.archive_refused


async def test_refusal_of_a_large_archive_is_heard(sandbox: Sandbox):
    with pytest.raises(SandboxError) as caught:
        await sandbox.put(TOP, tar(entry("/bad", b"x"), entry("big", bytes(16 << 20))))
    assert caught.value.reason is Reason.archive_refused


async def test_set_id_bits_are_dropped(sandbox: Sandbox):
    await sandbox.put(TOP, tar(entry("f", b"x", mode=0o6755)))
    assert await text_of(sandbox, f"stat -c %a {TOP}/f") == "755\n"


async def test_read_only_folders_can_be_put(sandbox: Sandbox):
    await sandbox.put(TOP, tar(entry("d/", kind=tarfile.DIRTYPE, mode=0o555), entry("d/f", b"x")))
    assert await text_of(sandbox, f"stat -c '%a %Y' {TOP}/d") == "555 1600000000\n"
    await text_of(sandbox, f"chmod 755 {TOP}/d")


async def test_stat(sandbox: Sandbox):
    await text_of(
        sandbox, f"mkdir {TOP} && cd {TOP} && printf 12345 >f && chmod 640 f && touch -d @99 f && ln -s f l && mkfifo p"
    )
    file, link = await sandbox.stat(f"{TOP}/f"), await sandbox.stat(f"{TOP}/l")
    assert file is not None and (file.kind, file.size, file.mode, file.mtime) == ("file", 5, 0o640, 99.0)
    assert link is not None and link.kind == "symlink"
    kinds = [await sandbox.stat(path) for path in (TOP, f"{TOP}/p")]
    assert [stat and stat.kind for stat in kinds] == ["dir", "other"]
    assert await sandbox.stat(f"{TOP}/none") is None
    assert await sandbox.stat(f"{TOP}/f/below-a-file") is None


async def test_unusable_requests_are_refused_before_they_run(sandbox: Sandbox):
    for request in (
        ExecRequest(argv=("echo", "a\0b"), cwd="/tmp"),
        ExecRequest(argv=("echo", "\udc80"), cwd="/tmp"),
        ExecRequest(argv=("true",), cwd="/tmp", env={"A=B": "c"}),
        ExecRequest(argv=("true",), cwd="/tmp", timeout_sec=0),
        ExecRequest(argv=("echo", "x" * (2 << 20)), cwd="/tmp"),
    ):
        with pytest.raises(SandboxError) as caught:
            await sandbox.exec(request)
        assert caught.value.reason in (Reason.protocol, Reason.usage)
    assert isinstance(await sandbox.exec(sh("true")), ExecResult)
