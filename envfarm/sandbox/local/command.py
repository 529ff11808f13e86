"""The command line of a box: pure functions from a plan to arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

BOX_UID = 1000
"""User and group id inside the box; outside it is the provider's unprivileged user."""
AGENT_PATH = "/run/envfarm/agent"
AGENT_FD = 3
"""The listening socket, as the agent inherits it."""
INFO_FD = 4
"""Where bubblewrap writes the host pid of the box's process 1."""
SECCOMP_FD = 5
"""Where bubblewrap reads the system call filter."""
BOX_HOME = "/home/box"
SCRATCH = (("/tmp", "1777"), (BOX_HOME, "0755"))
"""Scratch areas of every box besides its work directory, and their modes."""


@dataclass(frozen=True)
class Bind:
    """A host path in the box. ``scratch_overlay`` puts a memory-backed writable layer over it."""

    source: str
    target: str
    read_only: bool = True
    scratch_overlay: bool = False


@dataclass(frozen=True)
class BoxPlan:
    """Everything that decides a box's namespace. Paths are absolute; later binds lie over earlier ones."""

    bwrap: Path
    agent: Path
    agent_args: tuple[str, ...]
    root: tuple[str, ...]
    """Arguments that lay out the read-only system root."""
    binds: tuple[Bind, ...]
    workdir: str
    scratch_bytes: int
    env: dict[str, str] = field(default_factory=dict)
    share_net: bool = False
    seccomp: bool = True
    """Whether there is a system call filter to read."""
    die_with_parent: bool = True


def box_argv(plan: BoxPlan) -> list[str]:
    """bubblewrap's arguments for ``plan``, the program first."""
    args = [
        str(plan.bwrap),
        "--unshare-all", "--unshare-user", "--uid", str(BOX_UID), "--gid", str(BOX_UID),
        "--disable-userns", "--cap-drop", "ALL", "--new-session", "--as-pid-1", "--hostname", "box",
        "--info-fd", str(INFO_FD), "--clearenv",
    ]  # fmt: skip
    if plan.seccomp:
        args += ["--seccomp", str(SECCOMP_FD)]
    if plan.share_net:
        args.append("--share-net")
    if plan.die_with_parent:
        args.append("--die-with-parent")
    for name, value in plan.env.items():
        args += ["--setenv", name, value]
    args += plan.root
    args += ["--proc", "/proc", "--dev", "/dev"]
    size = str(plan.scratch_bytes)
    args += ["--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    args += ["--perms", "0755", "--dir", "/run", "--perms", "0755", "--dir", "/run/envfarm"]
    args += ["--perms", "0755", "--dir", "/home"]
    taken = {bind.target for bind in plan.binds}
    for target, mode in {plan.workdir: "0755", **dict(SCRATCH)}.items():
        if target not in taken:
            args += ["--perms", mode, "--size", size, "--tmpfs", target]
    for bind in plan.binds:
        args += bind_args(bind)
    args += ["--ro-bind", str(plan.agent), AGENT_PATH]
    # Last: what bubblewrap created on its own in the root would else be writable, and of no fixed size.
    args += ["--remount-ro", "/", "--chdir", "/", "--", AGENT_PATH, *plan.agent_args]
    return args


def bind_args(bind: Bind) -> list[str]:
    """The arguments for one bind."""
    if bind.scratch_overlay:
        return ["--overlay-src", bind.source, "--tmp-overlay", bind.target]
    return ["--ro-bind" if bind.read_only else "--bind", bind.source, bind.target]


@dataclass(frozen=True)
class LaunchPlan:
    """What happens to the process between our spawning it and its becoming bubblewrap."""

    agent: Path
    uid: int | None
    """None: stay who we are."""
    cgroups: tuple[str, ...]
    fds: tuple[tuple[int, int], ...]
    """Pairs of our descriptor and its number in the box."""
    file_size_bytes: int
    open_files: int = 65536
    die_with: int | None = None
    """Pid of the parent whose death ends the box."""


def launch_argv(plan: LaunchPlan, command: Sequence[str]) -> list[str]:
    """Arguments of ``envfarm-agent launch`` around ``command``."""
    args = [str(plan.agent), "launch"]
    if plan.uid is not None:
        args += ["--uid", str(plan.uid), "--gid", str(plan.uid)]
    if plan.die_with is not None:
        args += ["--die-with", str(plan.die_with)]
    for path in plan.cgroups:
        args += ["--cgroup", path]
    for source, target in plan.fds:
        args += ["--fd", f"{source}:{target}"]
    args += ["--core", "0", "--fsize", str(plan.file_size_bytes), "--nofile", str(plan.open_files)]
    return [*args, "--", *command]
