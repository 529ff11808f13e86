"""The healthy tree's own test run: which tests can be relied on and which lines they run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from envfarm.core.base import Noun, digest_bytes, digest_json
from envfarm.core.durable import write_file
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.ports import BlobStore, TestRunner
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus


class Baseline(Noun):
    """Two runs of the healthy suite, one of them traced."""

    key: str
    """Digest of environment, command, tree and source paths."""
    passing: tuple[str, ...]
    """Ids that passed in both runs, sorted."""
    unstable: tuple[str, ...]
    """Ids that passed in only one."""
    coverage: dict[str, dict[int, tuple[str, ...]]]
    """Path -> line -> ids among ``passing`` that ran it."""
    duration_sec: float
    """Of the run without tracing."""
    cpu_sec: float
    """Of both runs."""


async def measure_baseline(
    environment: Environment, command: TestCommand, tree: bytes, source_paths: Sequence[str], runner: TestRunner
) -> Baseline:
    """Run the suite twice, traced and not. Raises ``BuilderError`` when it does not end or nothing passes."""
    plain = await runner.run(environment, command, [tree])
    _refuse_unusable(plain)
    traced = await runner.run(environment, command, [tree], trace=source_paths)
    _refuse_unusable(traced)
    first, second = _passed(plain), _passed(traced)
    passing = first & second
    return Baseline(
        key=baseline_key(environment, command, tree, source_paths),
        passing=tuple(sorted(passing)),
        unstable=tuple(sorted(first ^ second)),
        coverage={
            path: {
                line: kept
                for line, tests in lines.items()
                if (kept := tuple(test for test in tests if test in passing))
            }
            for path, lines in traced.coverage.items()
        },
        duration_sec=plain.duration_sec,
        cpu_sec=plain.cpu_sec + traced.cpu_sec,
    )


def baseline_key(environment: Environment, command: TestCommand, tree: bytes, source_paths: Sequence[str]) -> str:
    """What a baseline is a function of."""
    return digest_json({
        "environment": environment.digest,
        "command": command.model_dump(mode="json"),
        "tree": digest_bytes(tree),
        "source_paths": sorted(source_paths),
    })  # fmt: skip


class BaselineCache:
    """Baselines as blobs, found again through a small index file: ``{key: blob digest}``."""

    def __init__(self, blobs: BlobStore, index: Path) -> None:
        self._blobs = blobs
        self._index = index

    async def get(
        self,
        environment: Environment,
        command: TestCommand,
        tree: bytes,
        source_paths: Sequence[str],
        runner: TestRunner,
    ) -> Baseline:
        """The stored baseline, or a fresh one, stored. Raises what :func:`measure_baseline` raises."""
        key = baseline_key(environment, command, tree, source_paths)
        digest = self._read().get(key)
        if digest is not None and self._blobs.has(digest):
            return Baseline.model_validate_json(self._blobs.get(digest))
        baseline = await measure_baseline(environment, command, tree, source_paths, runner)
        digest = self._blobs.put(baseline.model_dump_json().encode())
        self._write(self._read() | {key: digest})
        return baseline

    def _read(self) -> dict[str, str]:
        return json.loads(self._index.read_text()) if self._index.exists() else {}

    def _write(self, entries: dict[str, str]) -> None:
        self._index.parent.mkdir(parents=True, exist_ok=True)
        write_file(self._index, json.dumps(entries, indent=0, sort_keys=True).encode())


def _passed(report: TestReport) -> set[str]:
    return {test for test, status in report.statuses.items() if status is TestStatus.passed}


def _refuse_unusable(report: TestReport) -> None:
    if report.outcome is RunOutcome.finished and _passed(report):
        return
    reason = {
        RunOutcome.timed_out: Reason.suite_timeout,
        RunOutcome.no_tests: Reason.no_tests,
        RunOutcome.finished: Reason.tests_mostly_fail,
    }.get(report.outcome, Reason.suite_crash)
    raise BuilderError(
        f"The healthy suite cannot carry mutants: its run ended as '{report.outcome}' "
        f"with {len(_passed(report))} of {len(report.statuses)} tests passed.",
        reason=reason,
        phase="synth",
        remedy="Mend the environment or the test command first.",
        detail=report.log_tail,
    )
