"""The process that cleans up once we are gone, and the clean-up of what earlier processes left.

All of it is ``envfarm-agent reap``: a small program that does not die with us, whatever kills us.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from envfarm.core.errors import ProviderError, Reason

_REAP_SEC = 20.0
"""A reaper gives each box five seconds and works on all of them at once."""


class Reaper:
    """``envfarm-agent reap`` bound to us by a pipe that nothing is ever written to: its end is our end."""

    def __init__(self, agent: Path, boxes: Path, provider: str) -> None:
        read_end, self._write_end = os.pipe2(os.O_CLOEXEC)
        argv = [str(agent), "reap", "--boxes", str(boxes), "--provider", provider]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._write_end)
            raise ProviderError(
                f"The agent {agent} cannot be run: {error.strerror}.",
                reason=Reason.no_agent,
                phase="start",
                remedy="Build it with: make agent",
            ) from error
        finally:
            os.close(read_end)

    def close(self) -> None:
        """Let it end; by then there should be nothing to reap. Blocks until it has."""
        os.close(self._write_end)
        try:
            self._process.wait(_REAP_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def reap_stale(agent: Path, boxes: Path) -> str:
    """End and remove boxes whose owners no longer live; blocks. Returns what could not be removed, or nothing.

    That is a note and no error: a box that another user left must not keep us from starting.
    """
    if not any(boxes.glob("box-*")):
        return ""
    return _reap(agent, "--boxes", str(boxes), "--stale")


def reap_box(agent: Path, folder: Path) -> None:
    """End the box of ``folder``, whoever owns it, and remove what it leaves. Blocks. Raises ``ProviderError``."""
    problem = _reap(agent, "--box", str(folder))
    if problem:
        raise ProviderError(
            f"The box {folder.name} could not be removed whole.",
            reason=Reason.box_lost,
            phase="release",
            remedy="See 'envfarm sandbox ls' for what is left.",
            detail=problem,
        )


def watch_detached(agent: Path, folder: Path) -> None:
    """Leave a reaper behind that waits for the end of one detached box and outlives us."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    os.posix_spawn(agent, [str(agent), "reap", "--box", str(folder), "--wait"], {}, file_actions=null, setsid=True)


def _reap(agent: Path, *args: str) -> str:
    done = subprocess.run(
        [str(agent), "reap", *args], env={}, cwd="/", capture_output=True, text=True, timeout=_REAP_SEC, check=False
    )
    return done.stderr.strip() if done.returncode != 0 else ""
