"""From a healthy tree to task drafts, with a test runner that runs pytest in a subprocess of this machine."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envfarm_builders.synth.baseline import Baseline, BaselineCache, measure_baseline
from envfarm_builders.synth.choose import ChoiceLimits, Chooser, Proposal, python_sources
from envfarm_builders.synth.gate import GateOutcome, failed_tests, judge, propose_and_gate
from envfarm_builders.synth.task import Origin, draft_mutant, still_shown

from envfarm.core.archive import File, pack, unpack
from envfarm.core.base import digest_bytes
from envfarm.core.environment import Environment, InstallMode, TestCommand
from envfarm.core.errors import BuilderError
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ENVIRONMENT = Environment(recipe_digest="sha256:0", toolchain="3.11", layers=(), built_at=NOW)
COMMAND = TestCommand(timeout_sec=60)

SOURCE = '''"""A shop."""

RATE = 2


def total(prices, discount=0, verbose=False):
    """Sum."""
    amount = 0
    for price in prices:
        if price < 0:
            continue
        amount += price
    if verbose and discount:
        return amount, discount
    return amount - discount


class Cart:
    def __init__(self):
        self.items = []

    def add(self, item, count=1):
        if count == 0 or item is None:
            return False
        self.items.extend([item] * count)
        return True

    def has_items(self):
        return not all(item is None for item in self.items)

    def wait(self):
        n = 0
        while n < len(self.items):
            n += 1
        return n
'''
TESTS = """import pytest
from shop import Cart, total


@pytest.mark.parametrize("prices, expected", [([1, 2], 3), ([], 0), ([0, -1], 0)])
def test_total(prices, expected):
    assert total(prices) == expected


def test_discount():
    assert total([5], discount=2) == 3


def test_verbose():
    assert total([5], 2, verbose=True) == (5, 2)


class TestCart:
    def test_add(self):
        cart = Cart()
        assert cart.add("a")
        assert cart.items == ["a"]

    def test_add_many(self):
        cart = Cart()
        cart.add("a", 3)
        assert len(cart.items) == 3

    def test_add_nothing(self):
        cart = Cart()
        assert not cart.add("a", 0)
        assert not cart.add(None)
        assert not cart.has_items()

    def test_wait(self):
        cart = Cart()
        cart.add("a", 2)
        assert cart.wait() == 2
        assert cart.has_items()
"""
MORE = """from shop import *
import os

def test_rate():
    pass

def test_flag():
    assert not os.environ.get("UNSET")

def test_total_again():
    assert total([1, 1]) == 2
"""
FILES = {
    "src/shop.py": File(SOURCE.encode(), 0o755),
    "tests/test_shop.py": File(TESTS.encode()),
    "tests/test_more.py": File(MORE.encode()),
    "README.md": File(b"shop\n"),
}

PLUGIN = """
import json, os, sys
report = {"statuses": {}, "messages": {}, "coverage": {}}
root, traced = os.getcwd() + "/", json.loads(os.environ["TRACE"])
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    def call(frame, event, arg):
        path = frame.f_code.co_filename
        if not path.startswith(tuple(root + each for each in traced)):
            return None
        lines = report["coverage"].setdefault(path[len(root):], {})
        lines.setdefault(frame.f_lineno, {})[item.nodeid] = 1
        return call
    if traced:
        sys.settrace(call)
    yield
    sys.settrace(None)
def pytest_runtest_logreport(report: object):
    name, crash = report.nodeid, getattr(report.longrepr, "reprcrash", None)
    if report.when == "call" or report.failed:
        status = report.outcome if report.when == "call" else "error"
        globals()["report"]["statuses"][name] = status
    if crash:
        globals()["report"]["messages"][name] = crash.message
def pytest_sessionfinish():
    with open(os.environ["REPORT"], "w") as file:
        json.dump(report, file)
"""


class MemoryBlobs:
    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        self.data[digest_bytes(data)] = data
        return digest_bytes(data)

    def get(self, digest: str) -> bytes:
        return self.data[digest]

    def has(self, digest: str) -> bool:
        return digest in self.data


class SubprocessRunner:
    """The ``TestRunner`` port without a box, for this test's own harmless tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        self.known: dict[object, TestReport] = {}

    async def run(
        self,
        environment: Environment,
        command: TestCommand,
        archives: Sequence[bytes],
        *,
        patch: str = "",
        removed: Sequence[str] = (),
        only: Sequence[str] = (),
        trace: Sequence[str] = (),
    ) -> TestReport:
        key = (command.model_dump_json(), tuple(map(digest_bytes, archives)), patch, tuple(only), tuple(trace))
        self.runs += 1
        if key not in self.known:  # a run of the same thing has the same report: keeps this file quick
            self.known[key] = await asyncio.to_thread(self._run, command, archives, patch, only, trace)
        return self.known[key]

    def _run(
        self,
        command: TestCommand,
        archives: Sequence[bytes],
        patch: str,
        only: Sequence[str],
        trace: Sequence[str],
    ) -> TestReport:
        place = Path(tempfile.mkdtemp(dir=self.folder))
        for archive in archives:
            for path, file in unpack(archive).items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(file.data)
        (place / "reporter.py").write_text(PLUGIN)
        if patch:
            subprocess.run(["git", "apply", "-"], input=patch.encode(), cwd=place, check=True)
        env = os.environ | {
            "PYTHONPATH": f"{place}:{place}/src",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TRACE": json.dumps(list(trace)),
            "REPORT": f"{place}/report.json",
        }
        argv = [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "reporter",
            f"--rootdir={place}",
        ]
        try:
            done = subprocess.run(
                argv + list(only), cwd=place, env=env, capture_output=True, timeout=command.timeout_sec
            )
        except subprocess.TimeoutExpired:
            return TestReport(outcome=RunOutcome.timed_out, statuses={})
        found = json.loads((place / "report.json").read_text())
        coverage = {
            path: {int(line): tuple(sorted(tests)) for line, tests in lines.items()}
            for path, lines in found["coverage"].items()
        }
        return TestReport(
            outcome=RunOutcome.finished if found["statuses"] else RunOutcome.no_tests,
            statuses={name: TestStatus(status) for name, status in found["statuses"].items()},
            messages=found["messages"],
            exit_code=done.returncode,
            coverage=coverage,
            duration_sec=0.5,
            cpu_sec=0.1,
            log_tail=done.stdout.decode()[-4000:],
        )


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> SubprocessRunner:
    return SubprocessRunner(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def baseline(runner: SubprocessRunner) -> Baseline:
    return asyncio.run(measure_baseline(ENVIRONMENT, COMMAND, pack(FILES), ("src/",), runner))


def proposals(baseline: Baseline, seed: int, limits: ChoiceLimits | None = None) -> list[Proposal]:
    chooser = Chooser(python_sources(FILES, ("src/",)), baseline, seed=seed, limits=limits)
    found = []
    while (proposal := chooser.next()) is not None:
        found.append(proposal)
    return found


async def test_baseline_knows_lines_and_tests(baseline: Baseline) -> None:
    assert len(baseline.passing) == 12
    assert baseline.unstable == ()
    (path,) = baseline.coverage
    assert path == "src/shop.py"
    discount = SOURCE.splitlines().index("        return amount, discount") + 1
    assert baseline.coverage[path][discount] == ("tests/test_shop.py::test_verbose",)


async def test_baseline_is_kept(runner: SubprocessRunner, baseline: Baseline, tmp_path: Path) -> None:
    cache = BaselineCache(MemoryBlobs(), tmp_path / "deep" / "index.json")
    before = runner.runs
    first = await cache.get(ENVIRONMENT, COMMAND, pack(FILES), ("src/",), runner)
    again = await cache.get(ENVIRONMENT, COMMAND, pack(FILES), ("src/",), runner)
    assert first == again
    assert runner.runs == before + 2
    changed = pack(FILES | {"new.txt": File(b"")})
    await cache.get(ENVIRONMENT, COMMAND, changed, ("src/",), runner)
    assert runner.runs == before + 4


async def test_a_suite_without_passing_tests_is_refused(runner: SubprocessRunner) -> None:
    broken = FILES | {"src/shop.py": File(b"")}
    with pytest.raises(BuilderError, match="healthy suite cannot carry mutants"):
        await measure_baseline(ENVIRONMENT, COMMAND, pack(broken), ("src/",), runner)


async def test_choice_is_deterministic_and_spread(baseline: Baseline) -> None:
    first = proposals(baseline, 1)
    assert first == proposals(baseline, 1)
    assert first != proposals(baseline, 2)
    assert len({proposal.edit.operator for proposal in first[:5]}) >= 4
    functions = [proposal.function for proposal in first]
    assert max(functions.count(function) for function in functions) <= 4
    places = [(proposal.function, proposal.edit.operator, proposal.edit.line) for proposal in first]
    assert len(set(places)) == len(places)


async def test_choice_keeps_to_its_limits(baseline: Baseline) -> None:
    for proposal in proposals(baseline, 3, ChoiceLimits(max_tests=3, small_suite=3)):
        assert 2 <= len(proposal.tests) <= 3
        assert not proposal.edit.may_hang


async def test_sources_leave_tests_and_other_encodings_out() -> None:
    files = {
        "src/a.py": File(b"x"),
        "src/latin.py": File("\u00e9".encode("latin-1")),
        "src/link.py": File(link="a.py"),
        "src/tests/test_a.py": File(b"x"),
        "src/conftest.py": File(b"x"),
        "setup.py": File(b"x"),
    }
    assert python_sources(files, ("src/",)) == {"src/a.py": "x"}


async def test_gate_and_draft(runner: SubprocessRunner, baseline: Baseline) -> None:
    seen: list[GateOutcome] = []
    accepted = [
        pair
        async for pair in propose_and_gate(
            ENVIRONMENT, COMMAND, FILES, ("src/",), runner, seed=4, limit=4, baseline=baseline,
            on_gate=lambda proposal, outcome, report: seen.append(outcome),
        )
    ]  # fmt: skip
    assert len(accepted) == seen.count(GateOutcome.accepted) >= 3
    assert len(seen) > len(accepted)
    blobs = MemoryBlobs()
    origin = Origin("git:/x", "Shop", "c0ffee", "1.0", FILES, ("src/",))
    for proposal, report in accepted:
        failing = failed_tests(report, proposal.tests)
        assert len(failing) >= 2
        task = draft_mutant(origin, proposal, report, blobs, created_at=NOW)
        assert task == draft_mutant(origin, proposal, report, blobs, created_at=NOW)
        assert task.id.startswith("synth__shop-") and len(task.id) == len("synth__shop-") + 8
        tree, tests = unpack(blobs.get(task.tree)), unpack(blobs.get(task.tests))
        assert set(tests) == set(task.test_files) == {test.split("::")[0] for test in failing}
        assert all(tests[path] == FILES[path] for path in tests)
        left = still_shown(tree, failing)
        assert len(left) <= 1
        assert len(task.statement.shown_tests) == 1 and set(left) <= set(task.statement.shown_tests)
        assert tree["src/shop.py"].mode == 0o755
        assert tree["src/shop.py"].data.decode() == proposal.edit.source_after
        assert task.mutation is not None and task.mutation.function in task.statement.text
        assert proposal.edit.line_before.strip() not in task.statement.text
        assert sum(f"`{test}`" in task.statement.text for test in failing) == 1
        # the draft, with its trusted tests and its gold patch, is the healthy tree again
        gold = blobs.get(task.gold_patch).decode()
        before = await runner.run(ENVIRONMENT, COMMAND, [pack(tree), pack(tests)])
        after = await runner.run(ENVIRONMENT, COMMAND, [pack(tree), pack(tests)], patch=gold)
        assert {test for test, status in before.statuses.items() if status is TestStatus.failed} == set(failing)
        assert set(after.statuses.values()) == {TestStatus.passed}
        assert gold.count("\n-") == gold.count("\n+") == 2  # one line, and the header


async def test_the_seed_decides_whatever_the_concurrency(runner: SubprocessRunner, baseline: Baseline) -> None:
    async def run(seed: int) -> list[str]:
        return [
            proposal.edit.line_after
            async for proposal, _ in propose_and_gate(
                ENVIRONMENT, COMMAND, FILES, ("src/",), runner, limit=2, baseline=baseline, seed=seed
            )
        ]

    assert await run(4) == await run(4) != await run(9)


async def test_a_copied_install_is_refused(runner: SubprocessRunner) -> None:
    environment = ENVIRONMENT.model_copy(update={"install_mode": InstallMode.regular})
    with pytest.raises(BuilderError, match="installed copy"):
        async for _ in propose_and_gate(environment, COMMAND, FILES, ("src/",), runner, seed=1, limit=1):
            pass


async def test_more_failures_than_the_gate_saw(runner: SubprocessRunner, baseline: Baseline) -> None:
    proposal = next(each for each in proposals(baseline, 1) if each.edit.function == "total")
    report = TestReport(
        outcome=RunOutcome.finished, statuses=dict.fromkeys(proposal.tests[:2], TestStatus.failed), messages={}
    )
    origin = Origin("git:/x", "shop", "c0ffee", "1.0", FILES, ("src/",))
    blobs = MemoryBlobs()
    everything = [test for test in baseline.passing if "total" in test]
    task = draft_mutant(origin, proposal, report, blobs, created_at=NOW, failing=everything)
    assert len(still_shown(unpack(blobs.get(task.tree)), everything)) <= 1
    with pytest.raises(BuilderError, match="is not written in a test file"):
        draft_mutant(origin, proposal, report, blobs, created_at=NOW, failing=["src/shop.py::shop.total"])
    with pytest.raises(BuilderError, match="::made' is not written in a test file"):
        draft_mutant(
            origin,
            proposal,
            report,
            blobs,
            created_at=NOW,
            failing=["tests/test_shop.py::made", "tests/test_shop.py::test_total[1]"],
        )


def report_of(outcome: RunOutcome = RunOutcome.finished, **counts: int) -> tuple[TestReport, tuple[str, ...]]:
    statuses = {f"t.py::{status}{n}": TestStatus(status) for status, count in counts.items() for n in range(count)}
    return TestReport(outcome=outcome, statuses=statuses), tuple(statuses)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"failed": 2, "passed": 3}, GateOutcome.accepted),
        ({"failed": 1, "passed": 3}, GateOutcome.few_failures),
        ({"passed": 3}, GateOutcome.survived),
        ({"failed": 11}, GateOutcome.too_many_failures),
        ({"failed": 3, "error": 1}, GateOutcome.errors),
        ({"failed": 3, "outcome": RunOutcome.timed_out}, GateOutcome.timed_out),
        ({"failed": 3, "outcome": RunOutcome.out_of_memory}, GateOutcome.crashed),
    ],
)
async def test_the_gate(baseline: Baseline, counts: dict[str, int], expected: GateOutcome) -> None:
    report, tests = report_of(**counts)  # type: ignore[arg-type]
    proposal = Proposal("a.py", proposals(baseline, 1)[0].edit, tests)
    assert judge(report, proposal, suite=20) is expected
    if expected is GateOutcome.accepted:
        unseen = Proposal("a.py", proposal.edit, (*tests, "t.py::gone"))
        assert judge(report, unseen, suite=20) is GateOutcome.errors
