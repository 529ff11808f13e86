"""What real boxes say of every valid edit of published synth tasks, and what chance makes of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from envfarm_rl.repair.problem import Problem
from envfarm_rl.repair.world import Tried

from envfarm.core.config import load_config
from envfarm.core.errors import EnvfarmError
from envfarm.wiring.app import open_app
from envfarm.wiring.repair.boxes import BoxWorld
from envfarm.wiring.repair.tasks import RepairTask, selected_tasks

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


RECORD = "repair/record.jsonl"
"""Below the home: what came of each edit. A line's key tells the task's digest, so runs share it."""


async def table(home: Path, selections: Sequence[str], workers: int) -> list[Row]:
    """The table of ``RUN`` or ``RUN:PACKAGE,PACKAGE``s of build runs; what is not known yet is found out in boxes."""
    config = load_config(environ={}, flags={"home": str(home)})
    rows: list[Row] = []
    async with open_app(config) as app:
        tasks = selected_tasks(app.store, app.blobs, selections)
        world = BoxWorld(app, tasks, home / RECORD, concurrency=workers)

        async def one(found: RepairTask) -> None:
            try:
                tried = await world.all_tried(found.task.id)
            except EnvfarmError as error:  # the boundary of one task: left out, and said
                print(f"left out {found.task.id}: {error}", file=sys.stderr)
                return
            rows.append(Row(found.task.id, found.task.repo_name, found.problem, tuple(tried)))

        await asyncio.gather(*(one(found) for found in tasks))
        print(f"{len(rows)} tasks, {world.ran} edits run now, {world.graded} graded", file=sys.stderr)
    # A page that no valid edit mends (the grader knows more tests than the statement shows) is kept: it is a task.
    return sorted(rows, key=lambda row: row.task)


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


def drawn_four(row: Row, law: torch.Tensor, temperature: float, *, draws: int = 2000) -> float:
    """Chance to pass of edits drawn as wholes without repetition by log-probabilities ``law`` [edits], up to four, the
    shown test run after each and the first one handed in after which it passes: the share of ``draws`` orders."""
    noise = torch.rand(draws, len(law), generator=torch.Generator().manual_seed(0)).log().neg().log().neg()
    # the largest of log-masses plus Gumbel noise are draws without repetition, in their order
    orders = (law / temperature + noise).argsort(-1, descending=True)[:, :RUNS]
    shown = torch.zeros(len(law), dtype=torch.bool).index_fill_(0, torch.tensor(row.shown, dtype=torch.long), True)
    seen = shown[orders]
    first = orders.gather(-1, seen.int().argmax(-1, keepdim=True))[:, 0]
    return float((row.passes[first] * seen.any(-1)).mean())
