"""The pure parts of the local provider: command lines, the system call filter, cgroup tables, records."""

from __future__ import annotations

import errno
import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.box import Limits
from envfarm.core.errors import Reason
from envfarm.core.process import Process, start_time
from envfarm.sandbox.local.cgroup_search import find_cgroups, parse_mounts
from envfarm.sandbox.local.cgroups import Cgroups
from envfarm.sandbox.local.command import Bind, BoxPlan, LaunchPlan, box_argv, launch_argv
from envfarm.sandbox.local.faults import os_failure, start_failure
from envfarm.sandbox.local.network import registry_access
from envfarm.sandbox.local.records import BoxRecord, read_record, write_record
from envfarm.sandbox.local.seccomp import seccomp_filter


def plan(**fields: object) -> BoxPlan:
    base = BoxPlan(
        bwrap=Path("/b/bwrap"),
        agent=Path("/b/agent"),
        agent_args=("serve",),
        root=("--ro-bind", "/usr", "/usr"),
        binds=(),
        workdir="/repo",
        scratch_bytes=1024,
    )
    return BoxPlan(**{**base.__dict__, **fields})  # type: ignore[arg-type]


def test_every_box_is_closed() -> None:
    args = box_argv(plan())
    for option in ("--unshare-all", "--disable-userns", "--new-session", "--as-pid-1", "--clearenv", "--seccomp"):
        assert option in args
    assert "--die-with-parent" in args and "--share-net" not in args
    assert args[args.index("--cap-drop") + 1] == "ALL"
    # Nothing may be laid out after the root is made read-only.
    assert args[-7:] == ["--remount-ro", "/", "--chdir", "/", "--", "/run/envfarm/agent", "serve"]


def test_scratch_gives_way_to_a_bind_and_has_a_size() -> None:
    args = box_argv(plan(binds=(Bind("/host/tree", "/repo", read_only=False),)))
    scratch = [args[i + 1] for i, arg in enumerate(args) if arg == "--tmpfs"]
    assert sorted(scratch) == ["/dev/shm", "/home/box", "/tmp"]
    assert all(args[i - 2 : i] == ["--size", "1024"] for i, arg in enumerate(args) if arg == "--tmpfs")
    assert args[args.index("--bind") :][:3] == ["--bind", "/host/tree", "/repo"]


def test_writable_layer_is_an_overlay() -> None:
    args = box_argv(plan(binds=(Bind("/host/env", "/env", scratch_overlay=True),)))
    start = args.index("--overlay-src")
    assert args[start : start + 4] == ["--overlay-src", "/host/env", "--tmp-overlay", "/env"]


def test_detached_and_networked_boxes_say_so() -> None:
    args = box_argv(plan(die_with_parent=False, share_net=True, seccomp=False))
    assert "--die-with-parent" not in args and "--seccomp" not in args
    assert args.index("--share-net") > args.index("--unshare-all")


def test_launch_line() -> None:
    args = launch_argv(
        LaunchPlan(
            agent=Path("/a"), uid=7, cgroups=("/c/x",), fds=((9, 3),), file_size_bytes=5, open_files=6, die_with=1
        ),
        ["/b", "--x"],
    )
    line = "/a launch --uid 7 --gid 7 --die-with 1 --cgroup /c/x --fd 9:3 --core 0 --fsize 5 --nofile 6 -- /b --x"
    assert " ".join(args) == line


def run_filter(program: bytes, arch: int, number: int) -> int:
    """Classic BPF, the four instructions the filter is made of, on ``struct seccomp_data``."""
    data = struct.pack("=II", number, arch)
    at = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        else:
            assert code == 0x06
            return value


ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
X86, ARM = 0xC000003E, 0xC00000B7


@pytest.mark.parametrize(("machine", "arch", "bpf", "read"), [("x86_64", X86, 321, 0), ("aarch64", ARM, 280, 63)])
def test_filter_refuses_what_it_lists(machine: str, arch: int, bpf: int, read: int) -> None:
    program = seccomp_filter(machine)
    assert program is not None and len(program) % 8 == 0 and len(program) < 4096  # a pipe holds it
    assert run_filter(program, arch, bpf) == REFUSE
    assert run_filter(program, arch, 425) == REFUSE
    assert run_filter(program, arch, read) == ALLOW
    assert run_filter(program, arch, 0x40000000 | read) == REFUSE
    assert run_filter(program, 0x40000003, read) == REFUSE  # 32 bit
    assert seccomp_filter("riscv64") is None


@given(st.integers(min_value=0, max_value=(1 << 32) - 1), st.integers(min_value=0, max_value=(1 << 32) - 1))
def test_filter_always_decides(arch: int, number: int) -> None:
    program = seccomp_filter("x86_64")
    assert program is not None
    assert run_filter(program, arch, number) in (ALLOW, REFUSE)


def test_mounts_of_both_cgroup_versions() -> None:
    text = (
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n"
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
        "tmpfs /tmp tmpfs rw 0 0\n\nshort line\n"
    )
    v1, v2 = parse_mounts(text)
    assert v1 == {"cpu": Path("/sys/fs/cgroup/cpu,cpuacct"), "memory": Path("/sys/fs/cgroup/memory")}
    assert v2 == Path("/sys/fs/cgroup/unified")


@given(st.text())
def test_any_mount_table_is_read(text: str) -> None:
    parse_mounts(text)


def test_machine_without_cgroups_says_so() -> None:
    found = find_cgroups(mounts="proc /proc proc rw 0 0\n", own="0::/\n")
    assert found.controllers == frozenset() and "no hierarchy is mounted" in found.note


def test_cgroup2_that_is_not_ours_says_so(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset io\n")
    found = find_cgroups(mounts=f"cgroup2 {tmp_path} cgroup2 rw 0 0\n", own="0::/\n")
    assert found.v2 is None and "not delegated" in found.note


def test_paths_name_one_folder_for_each_hierarchy() -> None:
    cgroups = Cgroups(v1={"pids": Path("/p")}, v2=Path("/u"), v2_controllers=frozenset({"memory"}))
    assert cgroups.paths("box-1") == (Path("/p/box-1"), Path("/u/box-1"))
    assert cgroups.controllers == {"pids", "memory"} and cgroups.oom_kills("box-1") == 0


def record(**fields: object) -> BoxRecord:
    now = datetime.now(UTC)
    base = {
        "id": "box-0123456789ab",
        "owner": "o",
        "provider": "p",
        "owner_process": Process(),
        "limits": Limits(),
        "created_at": now,
        "deadline_at": now + timedelta(seconds=9),
    }
    return BoxRecord.model_validate({**base, **fields})


def test_record_comes_back_and_rubbish_does_not(tmp_path: Path) -> None:
    written = record(cgroups=("/c",), monitor=Process(pid=1, start=2))
    write_record(tmp_path, written)
    assert read_record(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["box.json"]
    for rubbish in ("", "{", '{"id": 1}', "[]", "\0"):
        (tmp_path / "box.json").write_text(rubbish)
        assert read_record(tmp_path) is None
    assert read_record(tmp_path / "absent") is None


def test_liveness_is_of_the_very_process() -> None:
    me = Process.of(os.getpid())
    assert me.alive and not Process(pid=me.pid, start=me.start + 1).alive
    assert record(owner_process=me).alive, "being started by a living owner"
    assert not record(owner_process=me, monitor=Process(pid=me.pid, start=me.start + 1)).alive
    assert start_time(1 << 22) is None


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("bwrap: No permissions to create new namespace, likely because ...\n", Reason.no_user_namespaces),
        ("bwrap: Creating new namespace failed: No space left on device\n", Reason.no_user_namespaces),
        ("bwrap: setting up uid map: Permission denied\n", Reason.no_user_namespaces),
        ("launch: user 61000: invalid argument\n", Reason.box_start_failed),
        ("bwrap: Can't make overlay mount on /newroot/env: Invalid argument\n", Reason.box_start_failed),
        ("bwrap: Can't write: No space left on device\n", Reason.disk_full),
        ("", Reason.box_start_failed),
        ("something new\n", Reason.box_start_failed),
    ],
)
def test_start_failures_are_told_apart(log: str, reason: Reason) -> None:
    for code in (1, 126, -9, None):
        error = start_failure(log, code, 61000)
        assert error.reason is reason and error.remedy and "\n" not in str(error)


@given(st.text(), st.none() | st.integers(-64, 255))
def test_any_log_gives_one_sentence(log: str, code: int | None) -> None:
    error = start_failure(log, code, None)
    assert len(error.message.splitlines()) == 1


@given(st.sampled_from(sorted(errno.errorcode)))
def test_any_system_error_gives_one_sentence(number: int) -> None:
    error = os_failure(OSError(number, os.strerror(number), "/some/path"))
    assert error.remedy and "\n" not in str(error)


def test_registry_access_takes_the_first_readable_bundle(tmp_path: Path) -> None:
    closed, opened = tmp_path / "closed.pem", tmp_path / "open.pem"
    for path in (closed, opened):
        path.write_text("pem")
    environ = {"SSL_CERT_FILE": str(closed), "PIP_CERT": str(opened), "SECRET_TOKEN": "x", "UV_INDEX_URL": "file:///i"}
    binds, env = registry_access(environ, lambda path: path != closed)
    assert [bind.source for bind in binds if bind.target.endswith("ca.pem")] == [str(opened)]
    assert env["SSL_CERT_FILE"] == env["PIP_CERT"] == "/run/envfarm/ca.pem"
    assert env["UV_INDEX_URL"] == "file:///i" and "SECRET_TOKEN" not in env
    assert all(bind.read_only for bind in binds)
