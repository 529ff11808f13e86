"""Three-state validation: does the fix, and nothing but the fix, turn failing tests into passing ones?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import Reason, VerifierError
from envfarm.core.ports import BlobStore, TestRunner
from envfarm.core.task import Task
from envfarm.core.verdict import InvalidReason, RunOutcome, TestReport, TestStatus, Transition, Validation

from .transitions import is_hidden, too_flaky, transitions, unstable

_ENDED = {
    RunOutcome.timed_out: (InvalidReason.suite_timeout, "ran longer than its limit"),
    RunOutcome.out_of_memory: (InvalidReason.suite_crash, "ran out of memory"),
    RunOutcome.crashed: (InvalidReason.suite_crash, "ended without its closing record"),
}


PATIENCE, MIN_PATIENCE_SEC = 10.0, 30.0
"""Untouched code may take this many times what the fixed code took, and never has less than the second: old code that
loops in a new test is not waited for until the suite's own limit."""


class _Invalid(Exception):
    def __init__(self, reason: InvalidReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class SharedState:
    """Runs of one tree that is the state *after* of several tasks, byte for byte: the healthy revision that mutants are
    made of. Whoever comes first runs it, for all."""

    def __init__(self) -> None:
        self._reports: list[TestReport] = []
        self._lock = asyncio.Lock()

    async def run(self, number: int, suite: Callable[[], Awaitable[TestReport]]) -> TestReport:
        """The report of run ``number`` (from 0, in order); ``suite`` makes it where nobody has. A run that raises is
        nobody's: the next one to come tries again."""
        async with self._lock:
            if number == len(self._reports):
                self._reports.append(await suite())
            return self._reports[number]


async def validate(
    task: Task,
    environment: Environment,
    command: TestCommand,
    runner: TestRunner,
    blobs: BlobStore,
    *,
    repeats: int = 2,
    min_f2p: int = 1,
    gate: bool = True,
    after: SharedState | None = None,
) -> Validation:
    """Run base (the tree), before (tree + tests) and after (tree + tests + gold patch), ``repeats`` times each.

    The touched test files run first, once: a task that shows no strict fail-to-pass test there costs no full suites.
    ``gate=False`` leaves that look out, for a task whose failing tests were seen to fail already. ``after`` keeps the
    runs of the last state for other tasks that end in the very same tree; ``cpu_sec`` counts what ran for this task.
    A task that is unfit gives ``valid=False`` with its reason; ``ProviderError``, ``SandboxError`` and ``StoreError``
    are the machine's and pass through.
    """
    if repeats < 2:
        raise VerifierError("Validation needs at least two runs of each state.", reason=Reason.usage, phase="validate")
    states = _States(task, environment, command, runner)
    started = time.monotonic()
    fields: dict[str, object] = {}
    try:
        await states.load(blobs)
        if gate:
            await _gate(states, task, min_f2p)
        for number in range(repeats):
            await states.run_all(number, after)
        fields = _judge(states, task, min_f2p)
        reason, detail = None, ""
    except _Invalid as finding:
        reason, detail = finding.reason, finding.detail
    return Validation(
        task_id=task.id,
        environment_digest=environment.digest,
        valid=reason is None,
        reason=reason,
        detail=detail,
        base=tuple(states.base),
        before=tuple(states.before or states.gate[:1]),
        after=tuple(states.after or states.gate[1:]),
        transitions=fields.get("transitions") or states.gate_transitions,  # type: ignore[arg-type]
        flaky=fields.get("flaky", ()),  # type: ignore[arg-type]
        wall_sec=time.monotonic() - started,
        cpu_sec=states.cpu_sec,
        validated_at=datetime.now(UTC),
    )


def finalize(task: Task, environment: Environment, validation: Validation) -> Task:
    """The task with its graded tests and its environment filled in. ``validation`` must be valid and of this task."""
    if not validation.valid or validation.task_id != task.id or validation.environment_digest != environment.digest:
        raise VerifierError(
            f"Task {task.id} cannot be completed from a validation that is not its own, or not valid.",
            reason=Reason.usage,
            phase="finalize",
        )
    return task.model_copy(
        update={
            "fail_to_pass": validation.tests(Transition.f2p),
            "pass_to_pass": validation.tests(Transition.p2p),
            "environment_digest": environment.digest,
        }
    )


class _States:
    """The three states and the reports of their runs."""

    def __init__(self, task: Task, environment: Environment, command: TestCommand, runner: TestRunner) -> None:
        self._task, self._environment, self._command, self._runner = task, environment, command, runner
        self._tree = self._tests = b""
        self._gold = ""
        self.gate: list[TestReport] = []
        self.gate_transitions: dict[str, Transition] = {}
        self.base: list[TestReport] = []
        self.before: list[TestReport] = []
        self.after: list[TestReport] = []
        self.cpu_sec = 0.0

    async def load(self, blobs: BlobStore) -> None:
        self._tree, self._tests, gold = await asyncio.gather(
            *(
                asyncio.to_thread(blobs.get, digest)
                for digest in (self._task.tree, self._task.tests, self._task.gold_patch)
            )
        )
        self._gold = gold.decode("utf-8", "surrogateescape")

    async def run_base(self, after: TestReport) -> TestReport:
        return await self._run(self._patient(after), [self._tree])

    async def run_before(self, after: TestReport, only: Sequence[str] = ()) -> TestReport:
        removed = self._task.removed_tests
        return await self._run(self._patient(after), [self._tree, self._tests], removed=removed, only=only)

    async def run_after(self, only: Sequence[str] = ()) -> TestReport:
        try:
            return await self._run(
                self._command, [self._tree, self._tests], patch=self._gold, removed=self._task.removed_tests, only=only
            )
        except VerifierError as error:  # the boundary: a gold patch that does not fit is the task's fault
            if error.reason is not Reason.patch_refused:
                raise
            raise _Invalid(InvalidReason.patch_does_not_apply, str(error)) from error

    async def run_all(self, number: int, shared: SharedState | None) -> None:
        """One full suite in each state. A base without tests is fine; one that hangs or dies is not."""
        after = await (shared.run(number, self.run_after) if shared else self.run_after())
        self.after.append(_ended_well("base + tests + gold", after))
        self.before.append(_ended_well("base + tests", await self.run_before(after)))
        self.base.append(_ended_well("base", await self.run_base(after)))

    def _patient(self, after: TestReport) -> TestCommand:
        limit_sec = max(MIN_PATIENCE_SEC, PATIENCE * after.duration_sec)
        return self._command.model_copy(update={"timeout_sec": min(limit_sec, self._command.timeout_sec)})

    async def _run(self, command: TestCommand, archives: Sequence[bytes], **options: Any) -> TestReport:
        report = await self._runner.run(self._environment, command, archives, **options)
        self.cpu_sec += report.cpu_sec
        return report


async def _gate(states: _States, task: Task, min_f2p: int) -> None:
    """The cheap look at the touched test files."""
    files = [path for path in task.test_files if path not in task.removed_tests]
    after = _ended_well("base + tests + gold", await states.run_after(files))
    before = _ended_well("base + tests", await states.run_before(after, files))
    states.gate += [before, after]
    states.gate_transitions = transitions([before], [after])
    if not after.statuses:
        detail = next(iter(after.collection_errors.values()), "the touched test files hold no test")
        reason = InvalidReason.gold_fails if after.collection_errors else InvalidReason.no_tests_collected
        raise _Invalid(reason, f"With the gold patch no test of the touched files was collected: {detail}")
    _need_f2p(states.gate_transitions, after, task, min_f2p)


def _judge(states: _States, task: Task, min_f2p: int) -> dict[str, object]:
    """The full suites' verdict on the task."""
    flaky = unstable(states.base, states.before, states.after)
    moved = transitions(states.before, states.after, leave_out=flaky)
    total = len(moved) + len(flaky)
    if too_flaky(flaky, total):
        raise _Invalid(
            InvalidReason.flaky, f"{len(flaky)} of {total} tests differ between runs: {', '.join(flaky[:5])}"
        )
    lost = [name for name, move in states.gate_transitions.items() if move is Transition.f2p and name in flaky]
    if lost and Transition.f2p not in moved.values():
        raise _Invalid(InvalidReason.flaky, f"Every fail-to-pass test differs between runs: {', '.join(lost[:5])}")
    broken = [name for name, move in moved.items() if move is Transition.p2f]
    if broken:
        raise _Invalid(
            InvalidReason.breaks_tests, f"{len(broken)} tests pass only without the gold patch: {', '.join(broken[:5])}"
        )
    _need_f2p(moved, states.after[0], task, min_f2p)
    for report in states.before:
        if all(report.statuses.get(n) is TestStatus.passed for n, m in moved.items() if m is Transition.f2p):
            raise _Invalid(InvalidReason.empty_passes, "The fail-to-pass tests pass without any change.")
    return {"transitions": moved, "flaky": flaky}


def _need_f2p(moved: dict[str, Transition], after: TestReport, task: Task, min_f2p: int) -> None:
    count = sum(move is Transition.f2p for move in moved.values())
    if count >= min_f2p:
        return
    if count:
        raise _Invalid(InvalidReason.few_f2p, f"{count} fail-to-pass tests, {min_f2p} are needed")
    hidden = [name for name, move in moved.items() if move is Transition.e2p]
    if hidden:
        raise _Invalid(
            InvalidReason.only_error_to_pass,
            f"{len(hidden)} tests only failed to import or to set up before: {', '.join(hidden[:3])}",
        )
    files = set(task.test_files)
    failing = [
        n for n, s in after.statuses.items() if s in (TestStatus.failed, TestStatus.error) and n.split("::")[0] in files
    ]
    if failing or any(is_hidden(path, after.collection_errors) for path in files):
        raise _Invalid(InvalidReason.gold_fails, f"Touched tests fail with the gold patch: {', '.join(failing[:5])}")
    raise _Invalid(InvalidReason.no_f2p, "No test fails before the gold patch and passes after it.")


def _ended_well(state: str, report: TestReport) -> TestReport:
    if report.outcome in _ENDED:
        reason, what = _ENDED[report.outcome]
        raise _Invalid(reason, f"The suite in state '{state}' {what}. {report.log_tail[-500:]}")
    if report.outcome is RunOutcome.no_tests and state.endswith("gold") and not report.collection_errors:
        raise _Invalid(InvalidReason.no_tests_collected, f"The suite in state '{state}' collected no test.")
    return report
