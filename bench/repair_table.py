"""What real boxes say of every valid edit of published synth tasks, and what chance makes of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from envfarm_rl.repair.problem import Problem
from envfarm_rl.repair.world import Tried

from envfarm.core.config import load_config
from envfarm.core.errors import EnvfarmError
from envfarm.wiring.app import open_app
from envfarm.wiring.repair.boxes import BoxWorld
from envfarm.wiring.repair.tasks import repair_tasks

RUNS = 4
"""Test runs of an episode with several."""


@dataclass(frozen=True)
class Row:
    """A task and what real boxes said of each of its valid edits."""

    task: str
    package: str
    problem: Problem
    tried: tuple[Tried, ...]

    @property
    def passes(self) -> torch.Tensor:
        """[edits]: 1 where the verdict is a pass."""
        return torch.tensor([float(each.passed) for each in self.tried])

    @property
    def shown(self) -> list[int]:
        """Edits after which the shown test passes."""
        return [index for index, each in enumerate(self.tried) if " passed" in each.line and " failed" not in each.line]


async def table(home: Path, run: str, packages: Sequence[str], workers: int) -> list[Row]:
    """The table of a build run, of those packages if any are named; what is not known yet is found out in boxes."""
    config = load_config(environ={}, flags={"home": str(home)})
    rows: list[Row] = []
    async with open_app(config) as app:
        tasks = repair_tasks(app.store, app.blobs, run)
        tasks = [found for found in tasks if not packages or found.task.repo_name in packages]
        world = BoxWorld(app, tasks, home / "repair" / f"{run}.jsonl", concurrency=workers)

        async def one(found: Any) -> None:
            try:
                tried = await world.all_tried(found.task.id)
            except EnvfarmError as error:  # the boundary of one task: left out, and said
                print(f"left out {found.task.id}: {error}", file=sys.stderr)
                return
            rows.append(Row(found.task.id, found.task.repo_name, found.problem, tuple(tried)))

        await asyncio.gather(*(one(found) for found in tasks))
        print(f"{run}: {len(rows)} tasks, {world.ran} edits run now, {world.graded} graded", file=sys.stderr)
    # A page that no valid edit mends (the grader knows more tests than the statement shows) is kept: it is a task.
    return sorted(rows, key=lambda row: row.task)


def parts(selection: str) -> tuple[str, list[str]]:
    """``RUN:PACKAGE,PACKAGE`` in its parts."""
    run, _, packages = selection.partition(":")
    return run, [name for name in packages.split(",") if name]


def chance(rows: Sequence[Row]) -> list[float]:
    """Of a random valid edit."""
    return [float(row.passes.mean()) for row in rows]


def chance_of_four(row: Row) -> tuple[float, float]:
    """Random edits without repetition, the shown test run after each, four runs: (chance to pass, expected runs)."""
    n, shown = len(row.tried), row.shown
    alive, runs, solved = 1.0, 0.0, 0.0
    good = sum(row.tried[index].passed for index in shown) / max(len(shown), 1)
    for made in range(min(RUNS, n)):
        runs += alive
        hit = alive * len(shown) / (n - made)
        solved += hit * good
        alive -= hit
    return solved, runs
