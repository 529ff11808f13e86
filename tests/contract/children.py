"""Child processes of the crash tests."""

from __future__ import annotations

import os
import subprocess
import sys

_PREAMBLE = """
import sys, time
from envfarm.core.errors import *
from envfarm.core.ports import StageOutcome
from envfarm.core.work import *
from envfarm.store import *
def say(text): print(text, flush=True)
url = sys.argv[1]
"""


def start(script: str, *args: str, failpoints: str = "") -> subprocess.Popen[str]:
    """Start ``script`` (its names: see the preamble). ``url`` is the first of ``args``."""
    environ = {**os.environ, "ENVFARM_FAILPOINTS": failpoints}
    command = [sys.executable, "-c", _PREAMBLE + script, *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run(script: str, *args: str, failpoints: str = "") -> tuple[int, str]:
    """Run ``script`` to its end; its return code (negative: the signal) and output."""
    child = start(script, *args, failpoints=failpoints)
    out, err = child.communicate(timeout=120)
    if child.returncode > 0:
        raise AssertionError(err)
    return child.returncode, out
