"""The attack battery: submissions that do not solve a task and must not pass.

Names are ``<catalogue id>.<variant>``; the ids are those of the published catalogue of grader attacks. Every patch is
a plain submission against the task's tree, as an agent could hand it in.
"""

from __future__ import annotations

from collections.abc import Mapping

from envfarm.core.task import Task

from . import files, runtime
from .edits import Tree

TWELVE = ("S20", "S21", "S22", "S23", "S35", "S36", "S37", "S38", "S39", "S40", "S41", "S42")
"""The catalogue ids every task is attacked with; the others are extras."""


def cheat_patches(task: Task, tree_files: Mapping[str, bytes], target: str | None = None) -> dict[str, str]:
    """Name -> patch (git form). ``tree_files``: the task's tree, path -> content. ``target``: the source file that the
    attacker's code goes into, as an agent that found the fault would know it; the first source module when None.

    Variants that the tree has no place for (no Python source file, no test file) are left out.
    """
    tree = Tree(dict(tree_files))
    patches = files.patches(task, tree)
    target = target or runtime.default_target(task, tree)
    if target is not None:
        patches |= runtime.patches(tree, target)
    return {name: patch for name, patch in sorted(patches.items()) if patch}
