"""Images of the tests: the agent, and a box with a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from envfarm.kube.manifests import BoxShape
from envfarm.sandbox.agent_binary import agent_binary
from envfarm.testbed.fleet import TAINT
from envfarm.testbed.images import image, layer_of

AGENT, BOX = "envfarm.test/agent:1", "envfarm.test/box:1"
SIMULATED = BoxShape(
    image=BOX, agent_image=AGENT, cpus=0.1, memory_mb=64, tolerations=({"key": TAINT, "operator": "Exists"},)
)
"""A box on a node of the fleet: it gets ready and runs nothing."""
BUSYBOX = Path("/usr/bin/busybox")


def agent_image() -> bytes:
    """``/envfarm-agent`` and nothing else."""
    return image(AGENT, [layer_of({"envfarm-agent": agent_binary()})], entrypoint=["/envfarm-agent"])


def _coreutils() -> dict[str, bytes | Path]:
    """This machine's and dash, with the libraries that they load."""
    listed = subprocess.run(["dpkg", "-L", "coreutils"], capture_output=True, text=True, check=True).stdout.split()
    programs = [Path(path) for path in listed if "/bin/" in path and Path(path).is_file()]
    programs.append(Path("/bin/dash"))  # busybox' own shell would not use them
    found: dict[str, bytes | Path] = {f"bin/{path.name}": path for path in programs}
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for library in (word for word in said.split() if word.startswith("/")):
            found[library.lstrip("/")] = Path(library)
    return found


def box_image() -> bytes:
    """coreutils and dash, and Debian's static busybox for the rest."""
    core = _coreutils()
    tools = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = {f"bin/{name}": "/bin/busybox" for name in tools if name != "busybox" and f"bin/{name}" not in core}
    links["bin/sh"] = "/bin/dash"
    return image(
        BOX, [layer_of({"bin/busybox": BUSYBOX, **core}, links)], entrypoint=["/bin/sh"], environ={"PATH": "/bin"}
    )
