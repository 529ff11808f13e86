"""Scripted policies for a task: they may know the answer, so a root makes them."""

from __future__ import annotations

import random
from collections.abc import Callable

from envfarm_builders.synth.edits import edits, random_edit
from envfarm_builders.synth.touched import touched_functions

from envfarm.core.archive import unpack
from envfarm.core.errors import BuilderError, ConfigError, Reason
from envfarm.core.ports import BlobStore, Policy
from envfarm.core.task import Task
from envfarm.rollout.policies import Edit, Noop, Oracle, RandomEdit

from .plan import POLICIES


def make_policy(name: str, task: Task, blobs: BlobStore, *, seed: int = 0) -> Policy:
    """``oracle``, ``noop`` or ``random-edit`` for one task. Raises ``ConfigError`` for another name."""
    if name == "noop":
        return Noop()
    if name == "oracle":
        return Oracle(blobs.get(task.gold_patch).decode())
    if name == "random-edit":
        return RandomEdit(_drawer(task, blobs), seed=seed)
    raise ConfigError(
        f"There is no policy '{name}'.",
        reason=Reason.usage,
        phase="rollout",
        remedy=f"Use one of: {', '.join(POLICIES)}.",
    )


def _drawer(task: Task, blobs: BlobStore) -> Callable[[random.Random], Edit | None]:
    """Draws uniformly from the valid edits of the functions that the answer touches."""
    tree = unpack(blobs.get(task.tree))
    known: list[tuple[str, str, str]] = []
    for path, functions in touched_functions(blobs.get(task.gold_patch).decode(), tree).items():
        source = tree[path].data.decode("utf-8", "replace")
        known += [(path, source, function) for function in functions]

    def draw(rng: random.Random) -> Edit | None:
        choices = [option for option in known if _has_edit(option[1], option[2])]
        if not choices:
            return None
        path, source, function = rng.choice(choices)
        return Edit(path, source, random_edit(source, function, rng).source_after)

    return draw


def _has_edit(source: str, function: str) -> bool:
    try:
        return bool(edits(source, function=function))
    except BuilderError:  # not Python that this interpreter reads: the baseline has no move there
        return False
