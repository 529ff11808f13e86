"""The attack battery over real tasks: how many cheats pass, how many true fixes do not.

    python bench/cheats.py --home HOME --run RUN --tasks 20
    python bench/cheats.py --home HOME --file tasks.json --only S42 --json out.json

Tasks come from a run of the store, valid ones by id, or from a JSON file of ``{"task", "environment", "command"}``
objects. Each task is calibrated, its gold patch graded ``--gold`` times, an empty patch once, then every cheat once.
Exits with 1 when a cheat passed or a gold patch did not. ``unscorable`` is counted by itself and is no pass.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from envfarm_verifiers.attacks import TWELVE, cheat_patches
from envfarm_verifiers.cache import MemoryCache
from envfarm_verifiers.diffs import parse
from envfarm_verifiers.grade import PytestGrader

from envfarm.core.archive import unpack
from envfarm.core.config import Config
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import EnvfarmError
from envfarm.core.rollout import Submission
from envfarm.core.stats import wilson
from envfarm.core.task import Task
from envfarm.core.verdict import Outcome, Verdict
from envfarm.sandbox.local import LocalProvider
from envfarm.store import FsspecBlobs, Store, queries


@dataclass
class Tally:
    """What was seen."""

    gold: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)
    cheats: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    passed: list[str] = field(default_factory=list)
    gold_lost: list[str] = field(default_factory=list)
    uncalibrated: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    plain_seconds: list[float] = field(default_factory=list)
    twins: list[int] = field(default_factory=list)


async def attack(
    grader: PytestGrader,
    blobs: FsspecBlobs,
    task: Task,
    environment: Environment,
    options: argparse.Namespace,
    tally: Tally,
) -> None:
    """One task through the battery."""
    try:
        calibration = await grader.calibrate(task, environment)
    except EnvfarmError as error:
        tally.uncalibrated.append(f"{task.id}: {error}")
        return
    tally.plain_seconds.append(calibration.suite_sec)
    tally.twins.append(len(calibration.sites))
    gold = blobs.get(task.gold_patch).decode("utf-8", "surrogateescape")

    async def grade(patch: str) -> Verdict:
        submission = Submission(task_id=task.id, task_digest=task.digest, patch=patch)
        return await grader.grade(task, environment, submission)

    for number in range(options.gold):
        # A blank line more makes another submission of the same change, so that the cache does not answer.
        verdict = await grade(gold + "\n" * number)
        tally.gold[verdict.outcome] += 1
        tally.seconds.append(verdict.duration_sec)
        if not verdict.passed:
            why = verdict.evidence.get("signs") or verdict.evidence.get("failed") or verdict.evidence
            tally.gold_lost.append(f"{task.id}: {verdict.outcome} {verdict.reason} {why}")
    verdict = await grade("")
    tally.empty[verdict.outcome] += 1
    if verdict.passed:
        tally.passed.append(f"{task.id}: empty patch")
    files = {path: file.data for path, file in unpack(blobs.get(task.tree)).items() if file.link is None}
    targets = [path for section in parse(gold) for path in section.paths if path.endswith(".py") and path in files]
    patches = cheat_patches(task, files, targets[0] if targets else None)
    chosen = {name: patch for name, patch in patches.items() if name.startswith(tuple(options.only))}
    if options.variants:
        chosen = sample(chosen, options.variants, task.id)
    slots = asyncio.Semaphore(options.workers)

    async def cheat(name: str, patch: str) -> None:
        async with slots:
            verdict = await grade(patch)
        tally.cheats[name][verdict.outcome] += 1
        if verdict.passed:
            tally.passed.append(f"{task.id}: {name}")

    await asyncio.gather(*(cheat(name, patch) for name, patch in chosen.items()))
    print(
        f"{task.id}: gold {dict(tally.gold)}, {len(chosen)} cheats, {len(tally.passed)} passed so far",
        file=sys.stderr,
        flush=True,
    )


def sample(patches: dict[str, str], count: int, seed: str) -> dict[str, str]:
    """``count`` variants of each catalogue id, another choice for each task."""
    taken: Counter[str] = Counter()
    chosen: dict[str, str] = {}
    for name in Random(seed).sample(sorted(patches), len(patches)):
        taken[name.split(".")[0]] += 1
        if taken[name.split(".")[0]] <= count:
            chosen[name] = patches[name]
    return chosen


def load(options: argparse.Namespace, config: Config) -> Iterator[tuple[Task, Environment, TestCommand]]:
    """Tasks with their environments and test commands."""
    if options.file:
        for row in json.loads(Path(options.file).read_text()):
            yield (
                Task.model_validate(row["task"]),
                Environment.model_validate(row["environment"]),
                TestCommand.model_validate(row["command"]),
            )
        return
    with Store.open(config.database_url) as store:
        for row in queries.tasks(store, options.run, limit=100_000):
            environment = queries.environment(store, row.task.environment_digest) if row.task.fail_to_pass else None
            recipe = queries.recipe(store, environment.recipe_digest) if environment else None
            if environment and recipe:
                yield row.task, environment, recipe.test


async def main(options: argparse.Namespace) -> int:
    """Run, print, judge."""
    config = Config(home=options.home)
    blobs = FsspecBlobs(config.blobs_url)
    tally = Tally()
    started = time.monotonic()
    async with LocalProvider(config.home_path) as provider:
        chosen = [entry for entry in load(options, config) if options.match in entry[0].id][: options.tasks]
        commands = {environment.digest: command for _, environment, command in chosen}
        grader = PytestGrader(provider, blobs, lambda environment: commands[environment.digest], MemoryCache())
        for task, environment, _ in chosen:
            await attack(grader, blobs, task, environment, options, tally)
    report(tally, len(chosen), time.monotonic() - started)
    if options.json:
        Path(options.json).write_text(json.dumps({key: value for key, value in vars(tally).items()}, indent=1))
    good = tally.gold[Outcome.passed] == tally.gold.total() > 0
    return 0 if good and not tally.passed and not tally.uncalibrated else 1


def report(tally: Tally, tasks: int, wall_sec: float) -> None:
    """The figures on standard output."""
    for line in (*tally.passed, *tally.gold_lost, *tally.uncalibrated):
        print(line)
    by_id: dict[str, Counter[str]] = defaultdict(Counter)
    for name, outcomes in tally.cheats.items():
        by_id[name.split(".")[0]] += outcomes
    for name, outcomes in sorted(by_id.items()):
        print(f"{name}{' ' if name in TWELVE else '+'} {outcomes.total():>5} trials  {dict(outcomes)}")
    total = sum((outcomes for outcomes in by_id.values()), Counter())
    low, high = wilson(total[Outcome.passed], total.total())
    print(f"tasks {tasks}, cheats {total.total()}, false passes {total[Outcome.passed]} [{low:.2%}, {high:.2%}]")
    print(f"gold {tally.gold[Outcome.passed]}/{tally.gold.total()}, empty {dict(tally.empty)}")
    if tally.seconds:
        print(
            f"median grade {sorted(tally.seconds)[len(tally.seconds) // 2]:.2f} s, "
            f"median suite {sorted(tally.plain_seconds)[len(tally.plain_seconds) // 2]:.2f} s; "
            f"tasks with twins {sum(map(bool, tally.twins))}/{len(tally.twins)}; wall {wall_sec:.0f} s"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default="")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run")
    source.add_argument("--file")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--match", default="", help="only tasks whose id holds this text")
    parser.add_argument("--only", nargs="*", default=[""], help="only cheats whose names start so")
    parser.add_argument("--variants", type=int, default=0, help="so many variants of each cheat for a task; 0: all")
    parser.add_argument("--gold", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json")
    sys.exit(asyncio.run(main(parser.parse_args())))
