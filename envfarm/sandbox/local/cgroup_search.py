"""Which cgroup controllers this process can really use, found by making and removing a cgroup in each."""

from __future__ import annotations

import os
import time
from pathlib import Path

from envfarm.core.box import Limits

from .cgroups import Cgroups, enable, make, try_remove, v1_settings, v2_settings, weigh, write

WANTED = ("memory", "pids", "cpu")
FOLDER = "envfarm"


def find_cgroups(mounts: str | None = None, own: str | None = None) -> Cgroups:
    """Probe, by making and removing a cgroup, which controllers can be used here."""
    mounts = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    own = Path("/proc/self/cgroup").read_text() if own is None else own
    v1_mounts, v2_mount = parse_mounts(mounts)
    v1: dict[str, Path] = {}
    problems: list[str] = []
    for controller in WANTED:
        if controller in v1_mounts:
            parent = v1_mounts[controller] / FOLDER
            if problem := _probe(parent, v1_settings(controller, Limits())):
                problems.append(f"{controller}: {problem}")
            else:
                v1[controller] = parent
    v2, controllers = None, frozenset[str]()
    left = frozenset(WANTED) - set(v1_mounts)
    if v2_mount is not None and left:
        v2, controllers, problem = _find_v2(v2_mount, own, left)
        if problem:
            problems.append(problem)
    elif left:
        problems.append(f"{', '.join(sorted(left))}: no hierarchy is mounted")
    for parent in (v1.get("cpu"), v2 if "cpu" in controllers else None):
        if parent is not None:
            weigh(make(parent))
    return Cgroups(v1=v1, v2=v2, v2_controllers=controllers, note="; ".join(problems))


def parse_mounts(mounts: str) -> tuple[dict[str, Path], Path | None]:
    """Version 1 controllers with their mount points, and version 2's, from the text of ``/proc/self/mounts``."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        if fields[2] == "cgroup2":
            v2 = v2 or Path(fields[1])
        elif fields[2] == "cgroup":
            for option in fields[3].split(","):
                if option in WANTED:
                    v1.setdefault(option, Path(fields[1]))
    return v1, v2


def _find_v2(mount: Path, own: str, wanted: frozenset[str]) -> tuple[Path | None, frozenset[str], str]:
    inside = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    here = mount / inside.strip().lstrip("/")
    # A delegated subtree ends somewhere above us; a cgroup that holds processes itself cannot hand on controllers.
    problem = ""
    for base in (*(p for p in (here, *here.parents) if p.is_relative_to(mount)),):
        try:
            there = wanted & set((base / "cgroup.controllers").read_text().split())
            if not there or not os.access(base / "cgroup.procs", os.W_OK):
                problem = problem or f"{', '.join(sorted(wanted))}: not delegated to this user"
                continue
            enable(base, there)
            parent = make(base / FOLDER)
            enable(parent, there)
        except OSError as error:
            problem = problem or f"{', '.join(sorted(wanted))}: {error.strerror}"
            continue
        if failed := _probe(parent, [item for name in sorted(there) for item in v2_settings(name, Limits())]):
            problem = failed
            continue
        missing = wanted - there
        return parent, there, f"{', '.join(sorted(missing))}: not delegated to this user" if missing else ""
    return None, frozenset(), problem


def _probe(parent: Path, settings: list[tuple[str, str, bool]]) -> str:
    path = parent / f"probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        write(make(path), settings)
        if not os.access(path / "cgroup.procs", os.W_OK):
            return "processes may not be moved"
    except OSError as error:
        return error.strerror or str(error)
    finally:
        try_remove(path)
    return ""
