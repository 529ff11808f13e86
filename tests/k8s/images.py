"""Images of the tests: the agent, and a box with a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from envfarm.sandbox.agent_binary import agent_binary
from envfarm.testbed.images import image, layer_of

AGENT, BOX = "envfarm.test/agent:1", "envfarm.test/box:1"
BUSYBOX = Path("/usr/bin/busybox")


def agent_image() -> bytes:
    """``/envfarm-agent`` and nothing else."""
    return image(AGENT, [layer_of({"envfarm-agent": agent_binary()})], entrypoint=["/envfarm-agent"])


def box_image() -> bytes:
    """Debian's static busybox."""
    tools = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = {f"bin/{name}": "/bin/busybox" for name in tools if name != "busybox"}
    return image(BOX, [layer_of({"bin/busybox": BUSYBOX}, links)], entrypoint=["/bin/sh"], environ={"PATH": "/bin"})
