"""Run proposals until enough of them fail a few tests and leave the rest alone."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from envfarm.core.archive import File, pack
from envfarm.core.environment import Environment, InstallMode, TestCommand
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.ports import TestRunner
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus

from .baseline import Baseline, measure_baseline
from .choose import ChoiceLimits, Chooser, Proposal, python_sources


class GateOutcome(StrEnum):
    """What the covering tests said of a mutant."""

    accepted = "accepted"
    survived = "survived"
    """No test noticed."""
    few_failures = "few_failures"
    too_many_failures = "too_many_failures"
    errors = "errors"
    """Tests ended in errors outside their bodies, or did not collect."""
    timed_out = "timed_out"
    crashed = "crashed"


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a mutant must do to the tests that reach it, and how much is tried."""

    min_failures: int = 2
    max_failures: int = 40
    max_share: float = 0.5
    """Of the stable suite."""
    per_function: int = 2
    """Accepted mutants of one function."""
    tries: int = 6
    """Proposals run, for each mutant wanted."""
    concurrency: int = 2
    min_timeout_sec: float = 10.0
    timeout_factor: float = 3.0
    """Of the healthy suite's duration: a mutant that runs longer is taken for an endless loop."""


def failed_tests(report: TestReport, tests: Sequence[str]) -> tuple[str, ...]:
    """Of ``tests``, those that failed in their own body."""
    return tuple(test for test in tests if report.statuses.get(test) is TestStatus.failed)


def judge(report: TestReport, proposal: Proposal, suite: int, limits: GateLimits | None = None) -> GateOutcome:
    """The gate: pure. ``suite`` is the number of stable tests."""
    limits = limits or GateLimits()
    if report.outcome is RunOutcome.timed_out:
        return GateOutcome.timed_out
    if report.outcome is not RunOutcome.finished:
        return GateOutcome.crashed
    statuses = [report.statuses.get(test) for test in proposal.tests]
    if report.collection_errors or TestStatus.error in statuses or None in statuses:
        return GateOutcome.errors
    failures = len(failed_tests(report, proposal.tests))
    if failures == 0:
        return GateOutcome.survived
    if failures < limits.min_failures:
        return GateOutcome.few_failures
    if failures > min(limits.max_failures, limits.max_share * suite):
        return GateOutcome.too_many_failures
    return GateOutcome.accepted


def mutated_files(files: Mapping[str, File], proposal: Proposal) -> dict[str, File]:
    """The one file that differs, with its mode."""
    data = proposal.edit.source_after.encode("utf-8")
    return {proposal.path: File(data, files[proposal.path].mode)}


async def propose_and_gate(
    environment: Environment,
    command: TestCommand,
    files: Mapping[str, File],
    source_paths: Sequence[str],
    runner: TestRunner,
    *,
    seed: int,
    limit: int,
    baseline: Baseline | None = None,
    choice: ChoiceLimits | None = None,
    limits: GateLimits | None = None,
    on_gate: Callable[[Proposal, GateOutcome, TestReport], None] | None = None,
) -> AsyncIterator[tuple[Proposal, TestReport]]:
    """At most ``limit`` mutants with the report of the tests that reach them, in an order that the seed decides.

    ``files`` is the healthy tree. ``on_gate`` is told of every run, the accepted ones too. Raises ``BuilderError``
    for an environment that holds a copy of the healthy source, and what :func:`measure_baseline` raises.
    """
    refuse_copied_source(environment)
    limits = limits or GateLimits()
    tree = pack(files)
    if baseline is None:
        baseline = await measure_baseline(environment, command, tree, source_paths, runner)
    chooser = Chooser(python_sources(files, source_paths), baseline, seed=seed, limits=choice)
    timeout_sec = max(limits.min_timeout_sec, limits.timeout_factor * baseline.duration_sec)
    command = command.model_copy(update={"timeout_sec": min(command.timeout_sec, timeout_sec)})

    async def run(proposal: Proposal) -> TestReport:
        overlay = pack(mutated_files(files, proposal))
        return await runner.run(environment, command, [tree, overlay], only=proposal.tests)

    taken: Counter[tuple[str, str, int]] = Counter()
    # Runs overlap, their results are taken in order: what is proposed next depends on the seed alone.
    running: deque[tuple[Proposal, asyncio.Task[TestReport]]] = deque()
    tries, accepted = limits.tries * limit, 0
    try:
        while accepted < limit:
            while len(running) < limits.concurrency and tries > 0 and (proposal := chooser.next()) is not None:
                # Counted when it starts, given back when it is refused: a function never gets more than its share.
                if taken[proposal.function] < limits.per_function:
                    taken[proposal.function] += 1
                    tries -= 1
                    running.append((proposal, asyncio.ensure_future(run(proposal))))
            if not running:
                return
            proposal, task = running.popleft()
            report = await task
            outcome = judge(report, proposal, len(baseline.passing), limits)
            if on_gate is not None:
                on_gate(proposal, outcome, report)
            if outcome is not GateOutcome.accepted:
                taken[proposal.function] -= 1
                continue
            accepted += 1
            chooser.accept(proposal)
            yield proposal, report
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


def refuse_copied_source(environment: Environment) -> None:
    """Raise ``BuilderError`` where the environment itself would show the answer."""
    if environment.install_mode is InstallMode.regular:
        raise BuilderError(
            "Mutants need an environment that uses the tree itself; this one holds an installed copy of the healthy "
            "source, which is the answer.",
            reason=Reason.usage,
            phase="synth",
            remedy="Build a recipe with an editable install, or with none.",
        )
