"""What an agent hands in: the difference between its tree and the task's, taken by us and outside its box."""

from __future__ import annotations

from collections.abc import Mapping

from envfarm.core.archive import unpack
from envfarm.core.diff import git_diff
from envfarm.core.environment import WORKDIR
from envfarm.core.ports import Sandbox
from envfarm.core.rollout import Submission
from envfarm.core.task import Task

Snapshot = Mapping[str, bytes]
"""Path -> content of the regular files below a task's declared source paths."""


async def snapshot(task: Task, sandbox: Sandbox) -> Snapshot:
    """Export the declared source paths. Taken before the agent starts, and again when it is done.

    Nothing in the box computes the difference. Links are left out, and compiled files, which appear whenever code
    runs. Raises ``SandboxError``, and ``EnvfarmError`` (archive_refused) for a tree that cannot be exported.
    """
    contents: dict[str, bytes] = {}
    for declared in task.source_paths:
        path = declared.rstrip("/")
        stat = await sandbox.stat(f"{WORKDIR}/{path}")
        if stat is None or stat.kind not in ("file", "dir"):
            continue
        files = unpack(await sandbox.get(f"{WORKDIR}/{path}"), regular_only=True)
        for name, file in files.items():
            where = path if stat.kind == "file" else f"{path}/{name}"
            if "__pycache__/" not in where:
                contents[where] = file.data
    return contents


def submission(task: Task, before: Snapshot, after: Snapshot) -> Submission:
    """The patch between two snapshots of one task. Text only: binary files cannot be handed in."""
    return Submission(task_id=task.id, task_digest=task.digest, patch=git_diff(before, after))
