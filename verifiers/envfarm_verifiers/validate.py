"""Three-state validation: does the fix, and nothing but the fix, turn failing tests into passing ones?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

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


class _Invalid(Exception):
    def __init__(self, reason: InvalidReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


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
) -> Validation:
    """Run base (the tree), before (tree + tests) and after (tree + tests + gold patch), ``repeats`` times each.

    The touched test files run first, once: a task that shows no strict fail-to-pass test there costs no full suites.
    ``gate=False`` leaves that look out, for a task whose failing tests were seen to fail already.
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
        for _ in range(repeats):
            await states.run_all()
        fields = _judge(states, task, min_f2p)
        reason, detail = None, ""
    except _Invalid as finding:
        reason, detail = finding.reason, finding.detail
    reports = (*states.gate, *states.base, *states.before, *states.after)
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
        cpu_sec=sum(report.cpu_sec for report in reports),
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

    async def load(self, blobs: BlobStore) -> None:
        self._tree, self._tests, gold = await asyncio.gather(
            *(
                asyncio.to_thread(blobs.get, digest)
                for digest in (self._task.tree, self._task.tests, self._task.gold_patch)
            )
        )
        self._gold = gold.decode("utf-8", "surrogateescape")

    async def run_base(self, only: Sequence[str] = ()) -> TestReport:
        return await self._runner.run(self._environment, self._command, [self._tree], only=only)

    async def run_before(self, only: Sequence[str] = ()) -> TestReport:
        return await self._runner.run(
            self._environment, self._command, [self._tree, self._tests], removed=self._task.removed_tests, only=only
        )

    async def run_after(self, only: Sequence[str] = ()) -> TestReport:
        try:
            return await self._runner.run(
                self._environment,
                self._command,
                [self._tree, self._tests],
                patch=self._gold,
                removed=self._task.removed_tests,
                only=only,
            )
        except VerifierError as error:  # the boundary: a gold patch that does not fit is the task's fault
            if error.reason is not Reason.patch_refused:
                raise
            raise _Invalid(InvalidReason.patch_does_not_apply, str(error)) from error

    async def run_all(self) -> None:
        """One full suite in each state. A base without tests is fine; one that hangs or dies is not."""
        self.base.append(_ended_well("base", await self.run_base()))
        self.before.append(_ended_well("base + tests", await self.run_before()))
        self.after.append(_ended_well("base + tests + gold", await self.run_after()))


async def _gate(states: _States, task: Task, min_f2p: int) -> None:
    """The cheap look at the touched test files."""
    files = [path for path in task.test_files if path not in task.removed_tests]
    states.gate.append(_ended_well("base + tests", await states.run_before(files)))
    states.gate.append(_ended_well("base + tests + gold", await states.run_after(files)))
    before, after = states.gate
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
