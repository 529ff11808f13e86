"""Puts a task into a box: its tree, what the environment's install generated, and a sealed single-commit repository."""

from __future__ import annotations

from envfarm.core.box import ExecRequest
from envfarm.core.environment import WORKDIR, Environment
from envfarm.core.errors import Reason, SandboxError, Tier
from envfarm.core.ports import BlobStore, Sandbox
from envfarm.core.task import Task

# One root commit with fixed author and date: no tags, reflog, remotes or earlier objects to find an answer in.
_SEAL = """
set -e
git init -q -b main .
git add -A -f
git -c user.name=envfarm -c user.email=envfarm@localhost -c gc.auto=0 commit -q --no-verify --allow-empty -m base
rm -rf .git/logs .git/hooks .git/COMMIT_EDITMSG
"""


async def place(task: Task, environment: Environment, sandbox: Sandbox, blobs: BlobStore) -> None:
    """Make the box ready for an agent. Raises ``SandboxError`` when the tree cannot be sealed."""
    # what the install wrote goes first, so that it never replaces a file of the tree
    if environment.generated:
        await sandbox.put(WORKDIR, blobs.get(environment.generated))
    await sandbox.put(WORKDIR, blobs.get(task.tree))
    date = {"GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z"}
    request = ExecRequest(argv=("/bin/sh", "-c", _SEAL), env={"GIT_CONFIG_NOSYSTEM": "1", **date}, timeout_sec=60)
    result = await sandbox.exec(request)
    if not result.ok:
        raise SandboxError(
            f"The tree of {task.id} could not be made a repository in the box.",
            reason=Reason.box_start_failed,
            phase="place",
            tier=Tier.environment,
            detail=result.stderr.decode("utf-8", "replace"),
            retryable=True,
        )
