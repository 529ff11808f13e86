"""The network of a bed: a namespace without a way out, and how a process gets into one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from envfarm.core.errors import ProviderError, Reason

NODE_IP = "198.18.0.1"
"""Of the machine inside a bed: API server, kubelet. From the range kept for benchmarks (RFC 2544)."""
SERVICE_IP = "198.19.0.1"
"""First of :data:`SERVICES`: the API server as a Service."""
SERVICES = "198.19.0.0/16"
PODS = "198.18.16.0/20"
_CLONE_NEWNET = 0x40000000


def make_network() -> None:
    """Inside a fresh namespace: loopback, and a pair of ends that hold the machine's address. There is no default
    route; services are reached by a route of their own, or connecting to them would fail before they are translated."""
    for line in (
        "link set lo up",
        "link add bed0 type veth peer name bed1",
        f"address add {NODE_IP}/24 dev bed0",
        "link set bed0 up",
        "link set bed1 up",
        f"route add {SERVICES} dev bed0",
    ):
        done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProviderError(
                f"The bed's network cannot be made: ip {line}: {done.stderr.strip()}.",
                reason=Reason.box_start_failed, phase="testbed up", remedy="It needs root and the package iproute2.",
            )  # fmt: skip


def enter(pid: int) -> None:
    """Put the calling thread, and what it starts, into the network namespace of a process. Raises ``OSError``."""
    _enter(Path(f"/proc/{pid}/ns/net"))


@contextlib.contextmanager
def inside(pid: int) -> Iterator[None]:
    """The calling thread is in the network namespace of a process for as long as the block lasts."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(pid)
        try:
            yield
        finally:
            _enter(Path(f"/proc/self/fd/{home}"))
    finally:
        os.close(home)


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 on
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network namespace {namespace} cannot be entered")
    finally:
        os.close(descriptor)
