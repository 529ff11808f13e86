"""A bed as its user sees it: brought up, asked, ended; found again by its folder."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envfarm.core.errors import ConfigError, ProviderError, Reason
from envfarm.core.process import Process, children_of

from . import programs
from .control_plane import SERVER
from .net import enter, inside
from .node import import_command, remove_cgroups
from .pki import USERS, kubeconfig, make_pki
from .programs import Shape
from .supervisor import SOCKET

RECORD = "bed.json"
_UP_SEC = 180.0


@dataclass(frozen=True)
class Bed:
    """A running bed."""

    folder: Path
    shape: Shape
    process: Process
    """The supervisor, as we see it: all else dies with it."""
    took: dict[str, float]
    """Seconds to each program's readiness."""

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.alive

    def kubeconfig(self, user: str = "admin") -> Path:
        """The file for one of :data:`.pki.USERS`."""
        return self.folder / f"{user}.kubeconfig"

    def enter(self) -> None:
        """Put the calling thread, and what it starts from then on, into the bed's network."""
        enter(self.process.pid)

    def inside(self) -> AbstractContextManager[None]:
        """The calling thread is in the bed's network for as long as the block lasts."""
        return inside(self.process.pid)

    def order(self, do: str, **more: object) -> dict[str, Any]:
        """Of the supervisor: ``status``, ``kill``, ``start``. Raises ``ProviderError``."""
        try:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(_UP_SEC)
                asked.connect(str(self.folder / SOCKET))
                asked.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
                answer: dict[str, Any] = json.loads(asked.makefile("rb").readline() or b'{"error": "it hung up"}')
        except OSError as error:  # the boundary to another process
            answer = {"error": str(error)}
        if "error" in answer:
            raise ProviderError(
                f"The bed in {self.folder} did not {do}: {answer['error']}.", reason=Reason.box_lost, phase="testbed"
            )
        return answer["ok"]

    def run(self, *argv: str) -> str:
        """What a command inside the bed prints. Raises ``ProviderError`` where it fails."""
        done = self.order("run", argv=argv)
        if done["code"]:
            raise ProviderError(
                f"{argv[0]} in the bed ended with {done['code']}: {done['stderr'].strip()}.",
                reason=Reason.box_start_failed, phase="testbed",
            )  # fmt: skip
        return done["stdout"]

    def load(self, image: bytes) -> None:
        """Give the node an image, as :func:`.images.image` makes it."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tar") as file:
            file.write(image)
            file.flush()
            self.run(*import_command(self.folder, file.name))

    def down(self) -> None:
        """End it and remove every trace. A bed that is down already is no error."""
        _end(self.folder, self.process)


def up(
    shape: Shape, *, folder: Path | None = None, detached: bool = False, say: Callable[[str], None] = lambda text: None
) -> Bed:
    """Build what is missing, start a bed, return when its API server answers and its nodes are there.

    Unless ``detached`` it ends with this process, however that ends. Raises ``ProviderError``; nothing is left then.
    """
    if why := unable():
        raise ProviderError(why, reason=Reason.config, phase="testbed up")
    programs.build(say, shape)
    where = folder or Path(tempfile.mkdtemp(prefix="envfarm-bed-"))
    if (where / RECORD).exists():
        old = read(where)
        if old is not None and old.alive:
            raise ConfigError(
                f"A bed runs in {where} already.", reason=Reason.usage, phase="testbed up",
                remedy="End it with 'envfarm testbed down', or name another folder.",
            )  # fmt: skip
        _end(where, Process())
    where.mkdir(parents=True, exist_ok=True)
    process: subprocess.Popen[bytes] | None = None
    try:
        make_pki(where / "pki")
        for user in USERS:
            (where / f"{user}.kubeconfig").write_text(kubeconfig(where / "pki", SERVER, user))
        process, owner = _start(where, shape, detached)
        ready = _first_line(process, where)
        bed = Bed(where, shape, _supervisor(process.pid), ready["ready"])
        record = {"shape": shape, "pid": bed.process.pid, "start": bed.process.start, "took": bed.took}
        (where / RECORD).write_text(json.dumps(record))
        _owners[bed.process.pid] = owner
    except BaseException:
        _end(where, _supervisor(process.pid) if process else Process())
        raise
    return bed


_owners: dict[int, int] = {}
"""Our ends of the pipes that hold beds of this process up."""


def _start(where: Path, shape: Shape, detached: bool) -> tuple[subprocess.Popen[bytes], int]:
    theirs, ours = os.pipe()
    inside = [sys.executable, "-m", "envfarm.testbed.supervisor", str(where), str(programs.folder()), shape]
    inside.append("-1" if detached else str(theirs))
    command = [
        "unshare",
        "--pid",
        "--net",
        "--mount",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "--propagation",
        "private",
    ]
    with (where / "supervisor.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(theirs,),
            start_new_session=True,
        )
    os.close(theirs)
    return process, ours


def _first_line(process: subprocess.Popen[bytes], where: Path) -> dict[str, Any]:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _UP_SEC)
    line = process.stdout.readline() if readable else b""
    if line:
        return json.loads(line)
    log = (where / "supervisor.log").read_text(errors="replace")
    raise ProviderError(
        f"The bed did not come up: {(log.strip().splitlines() or ['it gave no answer'])[-1]}",
        reason=Reason.box_start_failed, phase="testbed up", detail=log,
    )  # fmt: skip


def _supervisor(pid: int) -> Process:
    """``unshare`` waits for its child, which is process 1 of the bed."""
    found = children_of(pid)
    return Process.of(found[0]) if found else Process()


def read(folder: Path) -> Bed | None:
    """The bed of a folder, running or not; None where there is none."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):  # no bed, or one that was killed while it came up
        return None
    process = Process(pid=record["pid"], start=record["start"])
    return Bed(folder, Shape(record["shape"]), process, record["took"])


def _end(folder: Path, process: Process) -> None:
    if process.alive:
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while process.alive and time.monotonic() < deadline:
            time.sleep(0.01)
    owner = _owners.pop(process.pid, -1)
    if owner >= 0:
        os.close(owner)
    remove_cgroups(folder)
    shutil.rmtree(folder, ignore_errors=True)


def unable() -> str:
    """Why no bed can be had here, in one sentence; empty where one can."""
    if os.geteuid() != 0:
        return "A test bed needs root: it makes a network of its own."
    lacking = [name for name in ("unshare", "ip", "mount") if shutil.which(name) is None]
    if lacking:
        return f"A test bed needs {', '.join(lacking)}: install util-linux and iproute2."
    return ""
