"""What the local provider can hold boxes to on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from envfarm.core.ports import Capabilities

from .cgroups import Cgroups


def describe(cgroups: Cgroups, notes: Sequence[str] = ()) -> Capabilities:
    """Capabilities by the cgroup controllers that are to be had; what is weaker stands in the notes."""
    held = cgroups.controllers
    lines = list(notes)
    if cgroups.note:
        lines.append(f"Not all cgroup controllers can be used ({cgroups.note}).")
    if "memory" not in held:
        lines.append("Memory is limited for each process by itself (address space), not for the whole box.")
    if "pids" not in held:
        lines.append("Processes are counted by a resource limit inside the box alone.")
    if "cpu" not in held:
        lines.append("CPU time is not shared out: a box may use every core.")
    lines.append("Scratch areas lie in memory and count towards the memory limit.")
    if "memory" not in held:
        lines.append("The scratch layer of a writable environment has no size of its own.")
    return Capabilities(
        mounts=True,
        memory_limit="memory" in held,
        cpu_limit="cpu" in held,
        pids_limit=True,
        disk_limit=True,
        notes=tuple(lines),
    )
