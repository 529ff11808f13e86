"""Process 1 of a bed: starts its programs, takes orders over a socket, and takes everything with it when it ends.

It runs in pid, network and mount namespaces of its own: when it dies, however it dies, the kernel kills what it
started, and the network, the mounts and what lay on them are gone with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .control_plane import SERVER, Program, control_plane
from .net import make_network
from .pki import token
from .programs import Shape

SOCKET, LOGS = "orders", "logs"
_READY_SEC = 120.0


class Supervisor:
    """Of the bed in ``bed``."""

    def __init__(self, bed: Path, programs: Path) -> None:
        self._bed, self._programs = bed, programs
        self._known: dict[str, Program] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._context = ssl.create_default_context(cafile=str(bed / "pki" / "ca.crt"))

    def start(self, program: Program) -> None:
        """Start it and wait until it answers. Raises ``RuntimeError`` with the end of its log."""
        self._known[program.name] = program
        path = self._bed / LOGS / f"{program.name}.log"
        with path.open("ab") as log:
            self._running[program.name] = subprocess.Popen(
                program.argv,
                cwd=self._bed,
                env=self._environ() | program.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _READY_SEC
        while program.ready and not self._answers(program.ready):
            code = self._running[program.name].poll()
            if code is not None or time.monotonic() > deadline:
                tail = path.read_bytes()[-3000:].decode(errors="replace")
                raise RuntimeError(f"{program.name} {'is not ready' if code is None else f'ended with {code}'}: {tail}")
            time.sleep(0.05)
        for command in program.after:
            while (done := self.run(command)).returncode:
                if time.monotonic() > deadline or self._running[program.name].poll() is not None:
                    raise RuntimeError(f"after {program.name}: {' '.join(command)}: {done.stdout}{done.stderr}")
                time.sleep(0.1)

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A command inside the bed, to its end."""
        return subprocess.run(argv, env=self._environ(), capture_output=True, text=True, check=False)

    def _environ(self) -> dict[str, str]:
        return {"PATH": f"{self._programs}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self._bed)}

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2, context=self._context):
                return True
        except (OSError, urllib.error.URLError):  # not yet: that is what is asked
            return False

    def create(self, path: str, body: dict[str, object]) -> None:
        """One object, as administrator. Raises ``urllib.error.HTTPError``."""
        self._call(path, json.dumps(body).encode())

    def await_node(self, name: str) -> None:
        """Until the node takes Pods. Raises ``RuntimeError``."""
        deadline = time.monotonic() + _READY_SEC
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.HTTPError):  # it has not registered yet
                status = json.loads(self._call(f"/api/v1/nodes/{name}"))["status"]
                if any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ()):
                    return
            time.sleep(0.1)
        raise RuntimeError(f"node {name} does not get ready")

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {token(self._bed / 'pki', 'admin')}", "Content-Type": "application/json"}
        request = urllib.request.Request(SERVER + path, body, headers)
        with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
            return answer.read()

    def order(self, order: dict[str, Any]) -> dict[str, object]:
        """``status``; ``run ARGV``; and for tests that break things ``kill NAME [signal]``, ``start NAME``."""
        name = order.get("name", "")
        match order.get("do"):
            case "status":
                return {name: process.pid for name, process in self._running.items() if process.poll() is None}
            case "run":
                done = self.run(order["argv"])
                return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
            case "kill":
                process = self._running[name]
                process.send_signal(getattr(signal, order.get("signal", "SIGKILL")))
                if order.get("signal", "SIGKILL") not in ("SIGSTOP", "SIGCONT"):
                    process.wait(30)
            case "start":
                self.start(self._known[name])
            case other:
                raise ValueError(f"unknown order {other!r}")
        return {}

    def serve(self, listener: socket.socket, owner: int) -> None:
        """Until the ``owner``'s end of a pipe closes (-1: nobody's) or a signal ends us."""
        watched = [listener, *([owner] if owner >= 0 else [])]
        while True:
            ready, _, _ = select.select(watched, [], [], 1.0)
            if owner in ready:
                return
            if listener in ready:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):  # an asker who has left
                    self._answer(connection)
            self._reap()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_READY_SEC)
        try:
            answer: dict[str, object] = {"ok": self.order(json.loads(connection.makefile("rb").readline()))}
        except Exception as error:  # the boundary to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        connection.sendall(json.dumps(answer).encode() + b"\n")

    def _reap(self) -> None:
        """Orphans (containers' shims, and theirs) become children of process 1."""
        own = {process.pid: process for process in self._running.values()}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid in own:
                own[ended.si_pid].poll()  # else it would not learn how its process ended
            else:
                os.waitpid(ended.si_pid, 0)


def main(bed: Path, programs: Path, shape: Shape, owner: int) -> None:
    """Bring the bed up, say so on stdout (one line of JSON), serve."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    (bed / LOGS).mkdir()
    (bed / "etcd").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(bed / "etcd")], check=True)
    make_network()
    supervisor = Supervisor(bed, programs)
    took: dict[str, float] = {}

    def start(program: Program) -> None:
        begun = time.monotonic()
        supervisor.start(program)
        took[program.name] = round(time.monotonic() - begun, 2)

    for program in control_plane(bed, programs):
        start(program)
    if shape is Shape.fleet:
        from .fleet import NODES, node, simulated_nodes

        for program in simulated_nodes(bed, programs):
            start(program)
        begun = time.monotonic()
        for index in range(NODES):
            supervisor.create("/api/v1/nodes", node(index))
        took["nodes"] = round(time.monotonic() - begun, 2)
    else:
        from .node import NODE, real_node

        for program in real_node(bed, programs):
            start(program)
        begun = time.monotonic()
        supervisor.await_node(NODE)
        took["node ready"] = round(time.monotonic() - begun, 2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bed / SOCKET))
        listener.listen(16)
        print(json.dumps({"ready": took}), flush=True)
        supervisor.serve(listener, owner)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Shape(sys.argv[3]), int(sys.argv[4]))
