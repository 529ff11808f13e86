"""Environment success on packages drawn by a rule: how many install, collect, and pass their own tests at base.

    python bench/env_success.py 2026-11-24 --n 40 --json out.json

The draw: names of ``bench/data/top_packages.txt`` (its first 1,000), in order of ``sha256(name + DATE)``. A package is
looked at by downloading its newest source archive, until ``--n`` packages were tried. Passed over (counted, listed with
the reason) are archives without tests, and those that carry a part of their suite only: their test files import modules
of the suite's own that are not in the archive, or use fixtures while there is no conftest.py (``detect/gaps.py``: read
from the files, before anything is built). Nothing else is ever passed over.

Rungs, each over the ``n`` packages tried: *installs*; *collects* at least one test; *passes*: at least 85 % of the
tests that ran (skipped ones did not) pass at base, where a test file that did not collect counts as one failed test.
A suite that does not end within ``--timeout`` is judged on what finished, if that is 30 tests or more, marked ``~``.
Boxes have no network: tests that need one fail. No model is asked anything. The system tools that many suites call
(``scripts/system_packages.sh tools``) are installed first where that can be done.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from envfarm_builders.recipes.builder import UvEnvironmentBuilder
from envfarm_builders.recipes.detect import detect
from envfarm_builders.recipes.detect.gaps import suite_gaps
from envfarm_builders.recipes.detect.layout import carries_tests
from envfarm_builders.repos.pypi import latest_sdist
from envfarm_verifiers.runner import PytestRunner

from envfarm.core.archive import unpack
from envfarm.core.box import Limits
from envfarm.core.errors import BuilderError, EnvfarmError, Reason
from envfarm.core.ports import TestRunner
from envfarm.core.stats import wilson
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus
from envfarm.sandbox.local import LocalProvider
from envfarm.store.blobs import FsspecBlobs

POPULATION = 1000
RUNGS = ("installs", "collects", "passes")
BARS = {"installs": 0.95, "collects": 0.90, "passes": 0.85}
SHARE = 0.85
LEAST_FINISHED = 30
TOOLS = Path(__file__).parents[1] / "scripts" / "system_packages.sh"
RANKING = Path(__file__).parent / "data" / "top_packages.txt"


@dataclass
class Outcome:
    """What became of one package."""

    name: str
    version: str = ""
    installs: bool = False
    collects: bool = False
    passes: bool = False
    reason: str = ""
    message: str = ""
    python: str = ""
    mode: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    uncollected: int = 0
    cut: bool = False
    """The suite did not end in time."""
    build_sec: float = 0.0
    test_sec: float = 0.0
    repairs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """A few failed tests with their messages."""


def draw(date: str, ranking: Path = RANKING) -> list[str]:
    """All names of the population in draw order."""
    rows = [row.strip() for row in ranking.read_text("utf-8").splitlines()]
    names = [row for row in rows if row and not row.startswith("#")][:POPULATION]
    return sorted(names, key=lambda name: hashlib.sha256((name + date).encode()).hexdigest())


class Bench:
    """One run over a draw."""

    def __init__(
        self, home: Path, builder: UvEnvironmentBuilder, runner: TestRunner, timeout_sec: float, logs: Path | None
    ) -> None:
        self._home = home
        self._builder = builder
        self._runner = runner
        self._timeout_sec = timeout_sec
        self._logs = logs
        self.passed_over: dict[str, str] = {}
        self.outcomes: list[Outcome] = []

    async def run(self, names: Iterator[str], wanted: int, workers: int) -> None:
        """Try packages until ``wanted`` with tests were tried."""
        slots = asyncio.Semaphore(wanted)
        stop = asyncio.Event()

        async def work() -> None:
            while not stop.is_set():
                await slots.acquire()
                name = next(names, None)
                if stop.is_set() or name is None:
                    stop.set()
                    slots.release()
                    return
                outcome = await self._package(name)
                if outcome is None:
                    slots.release()
                    continue
                self.outcomes.append(outcome)
                print(line(outcome, len(self.outcomes), wanted), file=sys.stderr, flush=True)
                if len(self.outcomes) >= wanted:
                    stop.set()
                    slots.release()

        await asyncio.gather(*(work() for _ in range(workers)))

    def _pass_over(self, name: str, reason: str) -> None:
        self.passed_over[name] = reason
        print(f"          {name[:34]:<34} passed over: {reason}", file=sys.stderr, flush=True)

    async def _package(self, name: str) -> Outcome | None:
        outcome = Outcome(name)
        log: list[str] = []
        try:
            version, released_at, tree = await asyncio.to_thread(latest_sdist, name, self._home / "cache")
            files = {path: file.data for path, file in unpack(tree).items() if file.link is None}
            if not carries_tests(files):
                return self._pass_over(name, "no tests")
            if gaps := suite_gaps(files):
                return self._pass_over(name, f"suite incomplete: {', '.join(gaps[:3])}")
            outcome.version = version
            recipe = await asyncio.to_thread(
                detect, files, version=version, released_at=released_at, interpreters=self._builder.interpreters
            )
            log += recipe.provenance
            outcome.python = recipe.toolchain
            environment = await self._builder.build(recipe, tree, log.append, repo=name)
            outcome.installs = outcome.collects = True
            outcome.mode, outcome.build_sec = environment.install_mode.value, environment.build_sec
            command = recipe.test.model_copy(update={"timeout_sec": self._timeout_sec})
            report = await self._runner.run(environment, command, [tree])
            log += ["--- test run", report.log_tail]
            judge(outcome, report)
        except BuilderError as error:
            if error.reason is Reason.no_sdist:
                return self._pass_over(name, "no source archive")
            outcome.installs = error.reason is Reason.collect_failed
            outcome.reason, outcome.message = error.reason.value, str(error)
            log += [str(error), error.detail]
        except EnvfarmError as error:
            outcome.reason, outcome.message = error.reason.value, str(error)
            log += [str(error), error.detail]
        except Exception as error:  # the boundary of one package: a fault of ours is that package's failure
            outcome.reason, outcome.message = "internal", f"{type(error).__name__}: {error}"
            log.append(traceback.format_exc())
        outcome.repairs = [row for row in log if row.startswith("repair ")]
        if self._logs is not None:
            (self._logs / f"{name}.log").write_text("\n".join([*log, "", json.dumps(asdict(outcome), indent=1)]))
        return outcome


def judge(outcome: Outcome, report: TestReport) -> None:
    """The third rung."""
    statuses = list(report.statuses.values())
    good = {TestStatus.passed, TestStatus.xfailed, TestStatus.xpassed}
    outcome.passed = sum(status in good for status in statuses)
    outcome.skipped = statuses.count(TestStatus.skipped)
    outcome.failed = len(statuses) - outcome.passed - outcome.skipped
    outcome.uncollected = len(report.collection_errors)
    outcome.test_sec = report.duration_sec
    outcome.cut = report.outcome is not RunOutcome.finished
    ran = outcome.passed + outcome.failed + outcome.uncollected
    enough = ran >= LEAST_FINISHED if outcome.cut else ran > 0
    outcome.passes = enough and outcome.passed / ran >= SHARE
    bad = [f"{key}: {text[:200]}" for key, text in [*report.collection_errors.items(), *report.messages.items()]]
    outcome.failures = bad[:12]
    if not outcome.passes:
        outcome.reason = report.outcome.value if outcome.cut else "tests_mostly_fail"
        outcome.message = f"{outcome.passed} of {ran} pass; {bad[0][:160] if bad else report.log_tail[-160:]}"


def line(outcome: Outcome, number: int, wanted: int) -> str:
    """One row of the table."""
    rung = next((name for name in reversed(RUNGS) if getattr(outcome, name)), "nothing")
    tests = f"{outcome.passed}/{outcome.failed + outcome.uncollected}/{outcome.skipped}{'~' if outcome.cut else ''}"
    head = f"[{number:>3}/{wanted}] {outcome.name[:34]:<34} {outcome.version[:12]:<12} {outcome.python:<5} {rung:<9}"
    tail = f" {outcome.reason}: {outcome.message[:160]}" if not outcome.passes else ""
    return f"{head} {tests:>16} {outcome.build_sec:>6.1f}s {outcome.test_sec:>6.1f}s{tail}".replace("\n", " ")


def summary(bench: Bench, wall_sec: float, cpu_sec: float) -> dict[str, object]:
    """The figures, with Wilson 95 % intervals."""
    n = len(bench.outcomes)
    rungs = {}
    for name in RUNGS:
        count = sum(getattr(outcome, name) for outcome in bench.outcomes)
        low, high = wilson(count, n)
        rungs[name] = {
            "count": count,
            "of": n,
            "share": count / n if n else 0.0,
            "low": low,
            "high": high,
            "bar": BARS[name],
        }
    return {"rungs": rungs, "passed_over": bench.passed_over, "wall_sec": round(wall_sec), "cpu_sec": round(cpu_sec)}


def show(figures: dict, outcomes: list[Outcome]) -> None:
    """Failures with reasons, then the rungs, on standard output."""
    for outcome in outcomes:
        if not outcome.passes:
            print(f"{outcome.name} {outcome.version}: {outcome.reason}: {outcome.message}".replace("\n", " "))
    for reason, count in Counter(each.partition(":")[0] for each in figures["passed_over"].values()).items():
        print(f"passed over, {reason}: {count}")
    for name, rung in figures["rungs"].items():
        verdict = "holds" if rung["share"] >= rung["bar"] else "MISSED"
        print(
            f"{name:<9} {rung['count']:>3}/{rung['of']} = {rung['share']:.1%} "
            f"[{rung['low']:.1%}, {rung['high']:.1%}]  bar {rung['bar']:.0%} {verdict}"
        )
    print(f"wall {figures['wall_sec']} s, cpu {figures['cpu_sec']} s")


async def main(arguments: argparse.Namespace) -> int:
    """Run the benchmark; 0 when all bars hold."""
    started = time.monotonic()
    home = Path(arguments.home) if arguments.home else Path(tempfile.mkdtemp(prefix="envfarm-bench-", dir="/var/tmp"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    logs = Path(arguments.logs) if arguments.logs else None
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    blobs = FsspecBlobs(str(home / "blobs"))
    async with LocalProvider(home) as provider:
        builder = UvEnvironmentBuilder(home, provider, blobs)
        limits = Limits(cpus=1, memory_mb=4096, pids=512, disk_mb=2048, wall_sec=arguments.timeout + 300)
        bench = Bench(home, builder, PytestRunner(provider, blobs, limits), arguments.timeout, logs)
        names = iter(arguments.only.split(",") if arguments.only else draw(arguments.date))
        wanted = len(arguments.only.split(",")) if arguments.only else arguments.n
        await bench.run(names, wanted, arguments.workers)
    used = resource.getrusage(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF)
    cpu_sec = sum(each.ru_utime + each.ru_stime for each in used)
    figures = summary(bench, time.monotonic() - started, cpu_sec)
    show(figures, bench.outcomes)
    if arguments.json:
        document = {"date": arguments.date, **figures, "packages": [asdict(outcome) for outcome in bench.outcomes]}
        Path(arguments.json).write_text(json.dumps(document, indent=1))
    return 0 if all(rung["share"] >= rung["bar"] for rung in figures["rungs"].values()) else 1  # pyright: ignore


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("date", help="any text; fixes the draw, such as 2026-11-24")
    parser.add_argument("--n", type=int, default=40, help="packages with tests to try")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a test suite may take")
    parser.add_argument("--home", default="", help="keep environments and downloads here; a fresh folder otherwise")
    parser.add_argument("--json", default="", help="write all results to this file")
    parser.add_argument("--logs", default="", help="write a log for each package to this folder")
    parser.add_argument("--only", default="", help="comma-separated names instead of the draw")
    return parser.parse_args()


if __name__ == "__main__":
    subprocess.run(["bash", str(TOOLS), "tools"], check=False)
    sys.exit(asyncio.run(main(parse())))
