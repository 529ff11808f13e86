"""A local box as callers see it: the agent's client, with what only the host knows added to its answers."""

from __future__ import annotations

from pathlib import Path

from envfarm.core.box import ExecRequest, ExecResult
from envfarm.core.errors import Reason, SandboxError, Tier
from envfarm.core.ports import OutputSink

from ..client import AgentSandbox, Connect
from ..explained import ExplainedSandbox
from .cgroups import SUPERVISOR_TASKS, Cgroups
from .records import BoxRecord, now


def exec_limits(record: BoxRecord) -> dict[str, int]:
    """Resource limits of every command in the box, as the agent sets them.

    The process limit is one of the box's user in its user namespace, so it holds for the box, and counts the
    supervisors' threads too. Memory has one only where no cgroup holds it, and then for each process by itself.
    """
    limits = {
        "nproc": record.limits.pids + SUPERVISOR_TASKS // 2,
        "fsize_bytes": record.limits.file_size_mb << 20,
    }
    if not record.memory_limited:
        limits["as_bytes"] = record.limits.memory_mb << 20
    return limits


class LocalSandbox(ExplainedSandbox):
    """Satisfies ``envfarm.core.ports.Sandbox``. A box that died of its limits says so, with the policy's tier."""

    def __init__(self, record: BoxRecord, connect: Connect, cgroups: Cgroups) -> None:
        self.record = record
        self._cgroups = cgroups
        super().__init__(AgentSandbox(record.id, connect, exec_limits=exec_limits(record)))

    async def exec(
        self, request: ExecRequest, *, stdin: bytes | None = None, on_output: OutputSink | None = None
    ) -> ExecResult:
        """See the port. ``oom_killed`` is the kernel's own count, read around the command: where several run at once
        it is set on all of them."""
        before = self._cgroups.oom_kills(self.id)
        result = await super().exec(request, stdin=stdin, on_output=on_output)
        if result.signal is not None and now() >= self.record.deadline_at:
            # The agent kills everything before it ends the box; which of the two is heard of first is chance.
            raise self._ended_at_limit()
        if not result.replayed and self._cgroups.oom_kills(self.id) > before:
            return result.model_copy(update={"oom_killed": True})
        return result

    async def _cause(self) -> SandboxError | None:
        limits = self.record.limits
        if self._cgroups.oom_kills(self.id) > 0:
            return SandboxError(
                f"The box was killed: its processes used more than the {limits.memory_mb} MB it may have.",
                reason=Reason.memory_limit,
                phase="run",
                tier=Tier.policy,
                remedy="Raise limits.memory_mb if the task needs more.",
            )
        return self._ended_at_limit() if now() >= self.record.deadline_at else None

    def _ended_at_limit(self) -> SandboxError:
        return SandboxError(
            f"The box was ended at its limit of {self.record.limits.wall_sec:g} s.",
            reason=Reason.wall_limit,
            phase="run",
            remedy="Raise limits.wall_sec if the task needs longer.",
        )


def cgroups_of(record: BoxRecord, found: Cgroups) -> Cgroups:
    """``found``, if the box was put into cgroups; none else."""
    return found if set(map(Path, record.cgroups)) & set(found.paths(record.id)) else Cgroups()
