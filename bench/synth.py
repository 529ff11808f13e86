"""Synth tasks: mutants of healthy packages that survive validation, and what one costs.

    python bench/synth.py --json out.json

For each package: newest source archive, environment, a baseline (two runs of the suite, one traced), then mutants: each
proposal is gated by the tests that reach its line, drafted, and validated (base, base + tests, base + tests + gold;
two runs of each). A task counts when validation is satisfied with at least two fail-to-pass tests, of which the
statement names at most one and the tree holds at most that one.

``CPU-seconds per valid task`` is every CPU-second of the test runs (baselines, gates, validations, refused mutants
included) and of this process (choice, drafts, archives), over the valid tasks. Environment builds are not in it, nor
the few hundredths of a second that a box takes to start.

With ``--home`` each finished package is kept there, and not run again for the same seed and number.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from envfarm_builders.recipes.builder import UvEnvironmentBuilder
from envfarm_builders.recipes.detect import detect
from envfarm_builders.repos.pypi import latest_sdist
from envfarm_builders.split import source_paths
from envfarm_builders.synth.baseline import BaselineCache
from envfarm_builders.synth.choose import Proposal
from envfarm_builders.synth.gate import GateLimits, GateOutcome, propose_and_gate
from envfarm_builders.synth.operators import Operator
from envfarm_builders.synth.task import Origin, all_shown, draft_mutant
from envfarm_verifiers.runner import PytestRunner
from envfarm_verifiers.validate import finalize, validate

from envfarm.core.archive import pack, unpack
from envfarm.core.box import Limits
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import BuilderError, EnvfarmError, Reason
from envfarm.core.task import Task
from envfarm.core.verdict import TestReport, Transition
from envfarm.sandbox.local import LocalProvider
from envfarm.store.blobs import FsspecBlobs

PACKAGES = (
    "bidict,boltons,cachetools,click,dictdiffer,funcy,humanize,inflection,itsdangerous,jsonpatch,"
    "marshmallow,more-itertools,natsort,pluggy,sqlparse,tabulate,textdistance,tinydb,toolz,voluptuous,wcwidth"
)
BARS = {"tasks": 200, "packages": 12, "largest_package": 0.10, "operators_above_10": 4}
MIN_F2P = 2


@dataclass
class Outcome:
    """One package."""

    name: str
    version: str = ""
    error: str = ""
    suite: int = 0
    suite_sec: float = 0.0
    gates: Counter[str] = field(default_factory=Counter[str])
    invalid: Counter[str] = field(default_factory=Counter[str])
    undraftable: list[str] = field(default_factory=list)
    """Why failing tests could not be hidden."""
    redrafted: int = 0
    tasks: list[dict[str, object]] = field(default_factory=list)
    cpu_baseline: float = 0.0
    cpu_gate: float = 0.0
    cpu_validate: float = 0.0
    cpu_here: float = 0.0
    """Of this process, all threads, while it worked on the package; shared out evenly between those under way."""
    wall_sec: float = 0.0

    @property
    def cpu_sec(self) -> float:
        """Of all test runs and of this process."""
        return self.cpu_baseline + self.cpu_gate + self.cpu_validate + self.cpu_here


class Bench:
    """The object graph and the options."""

    def __init__(self, home: Path, provider: LocalProvider, arguments: argparse.Namespace) -> None:
        self._home = home
        self._blobs = FsspecBlobs(str(home / "blobs"))
        self._builder = UvEnvironmentBuilder(home, provider, self._blobs)
        limits = Limits(cpus=1, memory_mb=2048, pids=256, wall_sec=600)
        self._runner = PytestRunner(provider, self._blobs, limits, owner="envfarm-bench")
        self._baselines = BaselineCache(self._blobs, home / "baselines.json")
        self._arguments = arguments

    async def package(self, name: str) -> Outcome:
        """Everything about one package; its failure is an outcome."""
        kept = self._home / f"synth-{self._arguments.seed}-{self._arguments.per_package}" / f"{name}.json"
        if kept.exists():
            return read(kept)
        outcome, started, cpu_before = Outcome(name), time.monotonic(), time.process_time()
        try:
            origin, environment, command, released_at = await self._prepare(name, outcome)
            await self._mutate(origin, environment, command, released_at, outcome)
        except EnvfarmError as error:  # the boundary of one package
            outcome.error = str(error)
        outcome.wall_sec = time.monotonic() - started
        outcome.cpu_here = (time.process_time() - cpu_before) / self._arguments.workers
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(vars(outcome)))
        print(line(outcome), file=sys.stderr, flush=True)
        return outcome

    async def _prepare(self, name: str, outcome: Outcome) -> tuple[Origin, Environment, TestCommand, datetime]:
        outcome.version, released_at, tree = await asyncio.to_thread(latest_sdist, name, self._home / "cache")
        files = unpack(tree)
        contents = {path: file.data for path, file in files.items() if file.link is None}
        recipe = await asyncio.to_thread(
            detect, contents, version=outcome.version, released_at=released_at, interpreters=self._builder.interpreters
        )
        environment = await self._builder.build(recipe, tree, lambda _: None, repo=name)
        origin = Origin(f"pypi:{name}", name, outcome.version, outcome.version, files, source_paths(files))
        return origin, environment, recipe.test.model_copy(update={"timeout_sec": 120.0}), released_at

    async def _mutate(
        self, origin: Origin, environment: Environment, command: TestCommand, released_at: datetime, outcome: Outcome
    ) -> None:
        baseline = await self._baselines.get(
            environment, command, pack(origin.files), origin.source_paths, self._runner
        )
        outcome.suite, outcome.suite_sec = len(baseline.passing), baseline.duration_sec
        outcome.cpu_baseline = baseline.cpu_sec
        if baseline.duration_sec > self._arguments.suite_sec:
            raise BuilderError(
                f"The suite takes {baseline.duration_sec:.0f} s, more than --suite-sec.",
                reason=Reason.usage,
                phase="bench",
            )

        def gated(proposal: Proposal, gate: GateOutcome, report: TestReport) -> None:
            outcome.gates[gate.value] += 1
            outcome.cpu_gate += report.cpu_sec

        wanted = self._arguments.per_package
        stream = propose_and_gate(
            environment, command, origin.files, origin.source_paths, self._runner, seed=self._arguments.seed,
            limit=wanted + wanted // 2, baseline=baseline, limits=GateLimits(concurrency=1), on_gate=gated,
        )  # fmt: skip
        async for proposal, report in stream:
            if (
                task := await self._task(origin, environment, command, proposal, report, released_at, outcome)
            ) is not None:
                outcome.tasks.append(row(task, outcome.name))
            if len(outcome.tasks) >= wanted:
                break
        await stream.aclose()  # type: ignore[attr-defined]

    async def _task(
        self,
        origin: Origin,
        environment: Environment,
        command: TestCommand,
        proposal: Proposal,
        report: TestReport,
        released_at: datetime,
        outcome: Outcome,
    ) -> Task | None:
        try:
            task = draft_mutant(origin, proposal, report, self._blobs, created_at=released_at)
        except BuilderError as error:  # tests that cannot be hidden: counted
            outcome.undraftable.append(str(error))
            return None
        validation = await validate(task, environment, command, self._runner, self._blobs, min_f2p=MIN_F2P, gate=False)
        outcome.cpu_validate += validation.cpu_sec
        if not validation.valid:
            outcome.invalid[str(validation.reason)] += 1
            return None
        failing = validation.tests(Transition.f2p)
        if len(all_shown(task, failing, self._blobs)) > 1:
            # The whole suite knew more failing tests than those that reach the line. Graded states stay what they
            # were: only more tests move from the tree to the trusted side.
            outcome.redrafted += 1
            try:
                task = draft_mutant(origin, proposal, report, self._blobs, created_at=released_at, failing=failing)
            except BuilderError as error:  # as above
                outcome.undraftable.append(str(error))
                return None
        task = finalize(task, environment, validation)
        shown = all_shown(task, task.fail_to_pass, self._blobs)
        if len(task.fail_to_pass) < MIN_F2P or len(shown) > 1:
            raise BuilderError(f"Task {task.id} shows {len(shown)} tests.", reason=Reason.usage, phase="bench")
        return task


def read(kept: Path) -> Outcome:
    """An outcome of an earlier run."""
    values = json.loads(kept.read_text())
    return Outcome(**{**values, "gates": Counter(values["gates"]), "invalid": Counter(values["invalid"])})


def row(task: Task, package: str) -> dict[str, object]:
    """A task, for the JSON file."""
    assert task.mutation is not None
    return {
        "id": task.id,
        "package": package,
        **task.mutation.model_dump(),
        "fail_to_pass": len(task.fail_to_pass),
        "pass_to_pass": len(task.pass_to_pass),
        "shown": len(task.statement.shown_tests),
        "statement": task.statement.text,
    }


def line(outcome: Outcome) -> str:
    """One package in one line."""
    tasks = len(outcome.tasks)
    cost = f"{outcome.cpu_sec / tasks:6.1f}" if tasks else "     -"
    gates = sum(outcome.gates.values())
    head = f"{outcome.name:<16} {outcome.version:<9} {outcome.suite:>5} tests {outcome.suite_sec:>5.1f}s"
    return (
        f"{head}  {gates:>4} gated {outcome.gates['accepted']:>3} through {tasks:>3} valid  "
        f"{cost} CPU-s/task {outcome.wall_sec:>6.0f}s  {outcome.error[:120]}"
    )


def summary(outcomes: list[Outcome], wall_sec: float) -> dict[str, object]:
    """The figures and whether they reach the bars."""
    tasks = [task for outcome in outcomes for task in outcome.tasks]
    total = len(tasks)
    operators = Counter(str(task["operator"]) for task in tasks)
    packages = {outcome.name: len(outcome.tasks) for outcome in outcomes if outcome.tasks}
    gates: Counter[str] = sum((outcome.gates for outcome in outcomes), Counter())
    invalid: Counter[str] = sum((outcome.invalid for outcome in outcomes), Counter())
    largest = max(packages.values(), default=0) / total if total else 1.0
    above = sum(count > 0.10 * total for count in operators.values())
    reached = {
        "tasks": total >= BARS["tasks"],
        "packages": len(packages) >= BARS["packages"],
        "largest_package": largest <= BARS["largest_package"],
        "operators_above_10": above >= BARS["operators_above_10"],
    }
    return {
        "tasks": total,
        "packages": len(packages),
        "largest_package": round(largest, 4),
        "operators_above_10": above,
        "operators": {operator.value: operators.get(operator.value, 0) for operator in Operator},
        "gates": dict(gates),
        "invalid": dict(invalid),
        "undraftable": sum(len(outcome.undraftable) for outcome in outcomes),
        "redrafted": sum(outcome.redrafted for outcome in outcomes),
        "cpu_sec_per_task": round(sum(outcome.cpu_sec for outcome in outcomes) / total, 2) if total else None,
        "cpu_sec_here": round(sum(outcome.cpu_here for outcome in outcomes), 1),
        "cpu_sec_baseline": round(sum(outcome.cpu_baseline for outcome in outcomes), 1),
        "cpu_sec_gate": round(sum(outcome.cpu_gate for outcome in outcomes), 1),
        "cpu_sec_validate": round(sum(outcome.cpu_validate for outcome in outcomes), 1),
        "wall_sec": round(wall_sec, 1),
        "reached": reached,
    }


def show(figures: dict, outcomes: list[Outcome]) -> None:
    """Tables by package and by operator, then the bars."""
    for outcome in sorted(outcomes, key=lambda each: each.name):
        print(line(outcome))
    total = figures["tasks"]
    print()
    for operator, count in figures["operators"].items():
        print(f"{operator:<12} {count:>4}  {count / total if total else 0:>6.1%}")
    print(f"\ngates {figures['gates']}\ninvalid {figures['invalid']}")
    print(f"could not be hidden {figures['undraftable']}, drafted again {figures['redrafted']}")
    for name, bar in BARS.items():
        print(f"{name:<20} {figures[name]:>8} bar {bar} {'holds' if figures['reached'][name] else 'MISSED'}")
    print(
        f"CPU-seconds per valid task: {figures['cpu_sec_per_task']} (baseline {figures['cpu_sec_baseline']}, gates "
        f"{figures['cpu_sec_gate']}, validation {figures['cpu_sec_validate']}, this "
        f"process {figures['cpu_sec_here']} in all); wall {figures['wall_sec']} s"
    )


async def main(arguments: argparse.Namespace) -> int:
    """Run; 0 when all bars hold."""
    started = time.monotonic()
    home = Path(arguments.home) if arguments.home else Path(tempfile.mkdtemp(prefix="envfarm-bench-", dir="/var/tmp"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    names = [name.strip() for name in arguments.packages.split(",") if name.strip()]
    queue = asyncio.Queue[str]()
    for name in names:
        queue.put_nowait(name)
    outcomes: list[Outcome] = []
    async with LocalProvider(home) as provider:
        bench = Bench(home, provider, arguments)

        async def work() -> None:
            while not queue.empty():
                outcomes.append(await bench.package(queue.get_nowait()))

        async with asyncio.TaskGroup() as group:
            for _ in range(arguments.workers):
                group.create_task(work())
    figures = summary(outcomes, time.monotonic() - started)
    show(figures, outcomes)
    if arguments.json:
        rows = [vars(outcome) for outcome in sorted(outcomes, key=lambda each: each.name)]
        Path(arguments.json).write_text(json.dumps({"seed": arguments.seed, **figures, "by_package": rows}, indent=1))
    return 0 if all(figures["reached"].values()) else 1  # type: ignore[union-attr]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packages", default=PACKAGES, help="comma-separated names")
    parser.add_argument("--per-package", type=int, default=16, help="valid tasks wanted of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="packages at once")
    parser.add_argument("--suite-sec", type=float, default=20.0, help="packages with a slower suite are left out")
    parser.add_argument("--home", default="", help="keep environments and downloads here; a fresh folder otherwise")
    parser.add_argument("--json", default="", help="write all figures and tasks to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parse())))
