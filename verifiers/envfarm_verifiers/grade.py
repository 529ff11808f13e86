"""The ``pytest`` grader: a submission, a fresh box, a verdict."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from random import Random, SystemRandom
from typing import Any
from weakref import WeakValueDictionary

from envfarm.core.archive import File, pack, unpack
from envfarm.core.box import Limits
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import EnvfarmError, ProviderError, Reason, SandboxError, Tier, VerifierError
from envfarm.core.ports import BlobStore, SandboxProvider
from envfarm.core.rollout import Submission
from envfarm.core.task import Task
from envfarm.core.verdict import Outcome, TestReport, Verdict

from .cache import MemoryCache, VerdictCache
from .calibration import MAX_ROUNDS, Calibration, Calibrator
from .canaries import Kind
from .decide import decide
from .patchguard import Guarded, guard
from .planting import Plan, Planting, candidates, plant, twin_counts
from .report import RunRecord
from .runner import PytestRunner
from .sites import read_module

MIN_LIMIT_SEC, LIMIT_FACTOR = 30.0, 20.0
"""A graded run may take this many times what the gold patch took, and never has less than the first: loaded hosts are
slow, and a slow verdict is better than a wrong one."""
CANARY_FILES = 3
"""Test files that canaries are put into."""
MIN_SPARE_SEC = 3.0
SPARE_SHARE = 0.5
"""Twins may take this share of the suite's own time, and at least :data:`MIN_SPARE_SEC`."""


@dataclass(frozen=True)
class _Trusted:
    """What the subject has no part in."""

    tree: bytes
    tests: dict[str, File]
    sources: dict[str, bytes]
    """Content of the graded Python test files."""
    gold: str


class PytestGrader:
    """Satisfies :class:`~envfarm.core.ports.Verifier`.

    ``commands`` gives the test command of an environment (its recipe's). ``cache`` keeps verdicts and calibrations;
    ``hits`` counts them.
    """

    version = "pytest-1"

    def __init__(
        self,
        provider: SandboxProvider,
        blobs: BlobStore,
        commands: Callable[[Environment], TestCommand],
        cache: VerdictCache | None = None,
        limits: Limits | None = None,
        owner: str = "envfarm-grade",
        rng: Random | None = None,
    ) -> None:
        self._runner = PytestRunner(provider, blobs, limits, owner)
        self._blobs = blobs
        self._commands = commands
        self._cache: VerdictCache = cache or MemoryCache()
        self._rng = rng or SystemRandom()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.hits: Counter[str] = Counter(hit=0, miss=0)

    async def grade(self, task: Task, environment: Environment, submission: Submission) -> Verdict:
        """See the port. Raises ``VerifierError`` (usage) for digests that do not match, and ``StoreError``."""
        if submission.task_digest != task.digest or task.environment_digest != environment.digest:
            raise VerifierError(
                f"Task {task.ref} cannot be graded: its submission or environment is of another version.",
                reason=Reason.usage,
                phase="grade",
            )
        async with self._lock(f"{task.digest} {submission.digest}"):
            known = await asyncio.to_thread(self._cache.get, task.digest, submission.digest, self.version)
            if known is not None:
                self.hits["hit"] += 1
                return known.model_copy(update={"cached": True})
            self.hits["miss"] += 1
            verdict = await self._grade(task, environment, submission)
            if verdict.outcome is not Outcome.unscorable:
                await asyncio.to_thread(self._cache.put, verdict)
            return verdict

    async def prepare(self, task: Task, environment: Environment) -> float:
        """See the port: the CPU seconds of the task's calibration."""
        known = await asyncio.to_thread(self._cache.get_calibration, task.digest, self.version)
        return 0.0 if known else (await self.calibrate(task, environment)).cpu_sec

    async def calibrate(self, task: Task, environment: Environment) -> Calibration:
        """The task's calibration, from the cache or by running gold. Raises ``VerifierError`` (suite_crash) when gold
        does not pass under the grader's own measures: such a task cannot be graded."""
        async with self._lock(task.digest):
            known = await asyncio.to_thread(self._cache.get_calibration, task.digest, self.version)
            if known is None:
                known = await self._calibrate(task, environment, await self._load(task))
                await asyncio.to_thread(self._cache.put_calibration, known)
            return known

    async def _grade(self, task: Task, environment: Environment, submission: Submission) -> Verdict:
        started = time.monotonic()

        def verdict(
            outcome: Outcome, reason: str, evidence: dict[str, Any], report: TestReport | None = None
        ) -> Verdict:
            return Verdict(
                task_id=task.id,
                task_digest=task.digest,
                submission_digest=submission.digest,
                grader=self.version,
                outcome=outcome,
                reason=reason,
                evidence=evidence,
                report=report,
                duration_sec=time.monotonic() - started,
                graded_at=datetime.now(UTC),
            )

        trusted = await self._load(task)
        guarded = guard(submission.patch, task, trusted.tests)
        if guarded.refused:
            outcome = Outcome.tampered if guarded.hostile else Outcome.failed
            return verdict(outcome, "patch_refused", {"detail": guarded.refused})
        calibration = None
        try:
            calibration = await self.calibrate(task, environment)
            planting, run = await self._run(task, environment, trusted, calibration, guarded)
        except (ProviderError, SandboxError, VerifierError) as error:
            # The boundary: no line of the subject has run yet. What its patch causes is a failure; the rest is ours.
            reason = _subjects_reason(error) if calibration else ""
            if reason:
                return verdict(Outcome.failed, reason, {"detail": error.detail or str(error)})
            return verdict(Outcome.unscorable, str(error.reason), {"failure": error.record().model_dump(mode="json")})
        decision = decide(task, calibration, planting, run)
        evidence = decision.evidence | {"kept": list(guarded.kept), "dropped": dict(guarded.dropped or {})}
        return verdict(decision.outcome, decision.reason, evidence, decision.report)

    async def _run(
        self, task: Task, environment: Environment, trusted: _Trusted, calibration: Calibration, guarded: Guarded
    ) -> tuple[Planting, RunRecord]:
        spare = max(MIN_SPARE_SEC, SPARE_SHARE * calibration.suite_sec)
        limit_sec = max(MIN_LIMIT_SEC, LIMIT_FACTOR * calibration.suite_sec)
        counts = twin_counts(calibration.items, calibration.seconds, spare)
        extra = [kind for kind in calibration.kinds if kind is not Kind.passes]
        kinds = [*calibration.kinds, *(self._rng.sample(extra, min(2, len(extra))))]
        sites = {name: tuple(keys) for name, keys in calibration.sites.items()}
        plan = Plan(sites, kinds, counts)
        planting = await asyncio.to_thread(plant, trusted.sources, plan, calibration.canary_paths, self._rng)
        try:
            return planting, await self._attempt(task, environment, trusted, planting, guarded.patch, limit_sec)
        except (ProviderError, SandboxError) as error:
            if error.reason is Reason.usage:
                raise
            # Once more: a box that could not be started or prepared is not the subject's doing.
            return planting, await self._attempt(task, environment, trusted, planting, guarded.patch, limit_sec)

    async def _attempt(
        self,
        task: Task,
        environment: Environment,
        trusted: _Trusted,
        planting: Planting,
        patch: str,
        limit_sec: float = math.inf,
    ) -> RunRecord:
        command = self._commands(environment)
        # Plants take time that the suite alone did not need; an endless loop need not be waited for that long.
        command = command.model_copy(update={"timeout_sec": min(limit_sec, command.timeout_sec * 1.5 + 30)})
        files = dict(trusted.tests)
        for path, source in planting.files.items():
            files[path] = File(source, files[path].mode if path in files else 0o644)
        laid = {path: file.data for path, file in files.items() if path.endswith(".py") and file.link is None}
        fixed = trusted.sources | laid
        return await self._runner.record(
            environment,
            command,
            [trusted.tree],
            patch=patch,
            overlay=[pack(files)],
            removed=task.removed_tests,
            trusted={path: sha256(data).hexdigest() for path, data in sorted(fixed.items())},
        )

    async def _calibrate(self, task: Task, environment: Environment, trusted: _Trusted) -> Calibration:
        graded = (*task.fail_to_pass, *task.pass_to_pass)
        readable = [path for path in trusted.sources if read_module(trusted.sources[path]) is not None]
        first = {test.split("::")[0] for test in task.fail_to_pass}
        paths = sorted(readable, key=lambda path: (path not in first, path))[:CANARY_FILES]
        calibrator = Calibrator.start(graded, candidates(trusted.sources, task.fail_to_pass), paths)
        for round_number in range(MAX_ROUNDS + 2):
            if round_number == MAX_ROUNDS:
                calibrator.strip()
            planting = await asyncio.to_thread(plant, trusted.sources, calibrator.plan, calibrator.paths, self._rng)
            calibrator.observe(planting, await self._attempt(task, environment, trusted, planting, trusted.gold))
            if calibrator.done:
                return calibrator.result(task.digest, self.version)
        raise VerifierError(
            f"Task {task.id} cannot be graded: {calibrator.problem or 'its gold patch does not pass steadily'}.",
            reason=Reason.suite_crash,
            phase="calibrate",
            tier=Tier.task,
            remedy="Validate it again.",
        )

    async def _load(self, task: Task) -> _Trusted:
        tree, tests, gold = await asyncio.gather(
            *(asyncio.to_thread(self._blobs.get, digest) for digest in (task.tree, task.tests, task.gold_patch))
        )
        return await asyncio.to_thread(_trusted, task, tree, tests, gold)

    def _lock(self, key: str) -> asyncio.Lock:
        # Held by whoever waits for it, forgotten after the last.
        return self._locks.setdefault(key, asyncio.Lock())


def _subjects_reason(error: EnvfarmError) -> str:
    """The reason of a failure that a patch can cause before anything of it runs; empty for all others."""
    if error.reason is Reason.patch_refused:
        return "patch_does_not_apply"
    # The runner starts with the gold patch in place: that it does not now is proven to be nobody else's fault.
    return "not_started" if error.phase == "start" else ""


def _trusted(task: Task, tree: bytes, tests: bytes, gold: bytes) -> _Trusted:
    overlay = unpack(tests)
    files = {**unpack(tree), **overlay}
    graded = {test.split("::")[0] for test in (*task.fail_to_pass, *task.pass_to_pass)} - set(task.removed_tests)
    sources = {
        path: files[path].data
        for path in sorted(graded)
        if path.endswith(".py") and path in files and files[path].link is None
    }
    return _Trusted(tree, overlay, sources, gold.decode("utf-8", "surrogateescape"))
