"""Child processes of the crash tests: real processes, forked from a server that has the imports done."""

from __future__ import annotations

import multiprocessing

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["envfarm.store", "envfarm.store.queries", "psycopg"])

_PREAMBLE = """
import importlib, os, time
os.environ["ENVFARM_FAILPOINTS"] = failpoints
import envfarm.core.failpoints
importlib.reload(envfarm.core.failpoints)
from envfarm.core.errors import *
from envfarm.core.ports import StageOutcome
from envfarm.core.work import *
from envfarm.store import *
url, say, wait = args[0], pipe.send, pipe.recv
"""


class Child:
    """A process that runs ``script``: ``args`` and ``url`` (the first of them) are there, ``say(value)`` sends a
    value here, ``wait()`` waits for :meth:`go`."""

    def __init__(self, script: str, *args: str, failpoints: str = "") -> None:
        self._pipe, theirs = _FORKS.Pipe()
        names = {"args": args, "pipe": theirs, "failpoints": failpoints, "__name__": "child"}
        self.process = _FORKS.Process(target=exec, args=(_PREAMBLE + script, names), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self, timeout_sec: float = 60) -> object:
        """The next value said. Raises ``EOFError`` when the process has ended."""
        if not self._pipe.poll(timeout_sec):
            raise TimeoutError(f"the child said nothing for {timeout_sec} s")
        try:
            return self._pipe.recv()
        except ConnectionResetError as error:
            raise EOFError from error

    def go(self) -> None:
        """Let one ``wait()`` return."""
        self._pipe.send(None)

    def end(self) -> tuple[int | None, list[object]]:
        """Wait for the end; the exit code (negative: the signal) and all values not heard yet."""
        said = []
        try:
            while True:
                said.append(self.hear())
        except EOFError:
            self.process.join(60)
        self._pipe.close()
        return self.process.exitcode, said


def run(script: str, *args: str, failpoints: str = "") -> tuple[int | None, list[object]]:
    """Run ``script`` to its end; see :meth:`Child.end`."""
    return Child(script, *args, failpoints=failpoints).end()
