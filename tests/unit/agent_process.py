"""A real agent as a plain process on a unix socket, with no box around it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from envfarm.core.box import ExecRequest
from envfarm.sandbox.agent_binary import agent_binary
from envfarm.sandbox.client import AgentSandbox, unix_socket


class Agent:
    """The process, its client and the path of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self.path = path
        self.sandbox = AgentSandbox("bare", unix_socket(path))


@contextlib.contextmanager
def running_agent(*options: str, deadline_sec: float = 60) -> Iterator[Agent]:
    # Not tmp_path: a unix socket's path is bounded to about 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="agent-"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen()
    command = [agent_binary(), "serve", "--listen-fd", str(listener.fileno()), "--deadline-sec", str(deadline_sec)]
    process = subprocess.Popen([*command, *options], pass_fds=[listener.fileno()], stderr=subprocess.PIPE)
    listener.close()
    try:
        yield Agent(process, folder / "s")
    finally:
        process.terminate()
        process.communicate(timeout=10)
        shutil.rmtree(folder)


def sh(script: str, **fields: object) -> ExecRequest:
    return ExecRequest.model_validate({"argv": ("sh", "-c", script), "cwd": "/tmp", **fields})
