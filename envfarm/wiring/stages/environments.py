"""base, build: environments, shared by recipe."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from envfarm_builders.draft import fixed_tree
from envfarm_builders.recipes.detect import detect
from envfarm_builders.recipes.interpreters import discover

from envfarm.core.archive import unpack
from envfarm.core.environment import Environment, Recipe
from envfarm.core.errors import BuilderError, Reason
from envfarm.core.source import Commit
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus
from envfarm.core.work import Lease
from envfarm.farm.stage import Completed
from envfarm.store import Transaction, queries

from .common import RunStage, done, must, rejected

PASS_SHARE = 0.85
"""Third rung of environment success: this share of the collected tests passes at base."""


class EnvironmentStage(RunStage):
    """Builds each recipe once per process at a time, and each recipe's failure only once per run."""

    def __post_init__(self) -> None:
        self._building: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: dict[str, BuilderError] = {}
        self._interpreters = discover()

    async def environment_of(self, recipe: Recipe, tree: bytes, repo: str) -> tuple[Environment, str]:
        """The environment of a recipe and the build's log; ``repo`` is a short name. Raises ``BuilderError``."""
        async with self._building[recipe.digest]:
            if failure := self._failed.get(recipe.digest):
                raise failure
            found = await asyncio.to_thread(queries.environment_for_recipe, self.app.store, recipe.digest)
            if found is not None and self._is_here(found):
                return found, ""
            log: list[str] = []
            try:
                built = await self.app.builder.build(recipe, tree, log.append, repo=repo)
            except BuilderError as error:
                if not error.retryable:
                    self._failed[recipe.digest] = error
                raise
            return built, "\n".join(log)

    def _is_here(self, environment: Environment) -> bool:
        return all((self.app.home / layer.source).exists() for layer in environment.layers)

    def recipe_of(self, tree: bytes, version: str, released_at: datetime) -> Recipe:
        """What the tree's own files ask for, on this machine."""
        return detect(contents(tree), version=version, released_at=released_at, interpreters=self._interpreters)

    def keep(self, recipe: Recipe, environment: Environment, tx: Transaction) -> None:
        """Write both."""
        tx.put_recipe(recipe)
        tx.put_environment(self.run_name, environment)

    def put_log(self, log: str) -> str:
        """A log as a blob; its digest, or empty."""
        return self.app.blobs.put(log.encode()) if log else ""


class BaseStage(EnvironmentStage):
    """The newest revision: is its environment built, and do its tests pass?"""

    name = "base"

    async def run(self, lease: Lease) -> Completed:
        """All three rungs of environment success; then mutants, if the plan wants any."""
        ref = lease.work.payload["ref"]
        commit, recipe, tree = await asyncio.to_thread(self._recipe, ref)
        environment, log = await self.environment_of(recipe, tree, lease.work.repo)
        report = await self.app.runner.run(environment, self.app.command(recipe), [tree])
        log = await asyncio.to_thread(self.put_log, f"{log}\n\n{report.log_tail}")
        reason, detail = judge(report)
        usage = {"log": log, "cpu_sec": report.cpu_sec, "bytes_written": environment.size_bytes}

        def write(tx: Transaction) -> None:
            self.keep(recipe, environment, tx)

        if reason:
            return rejected(reason, detail, write=write, **usage)
        following = []
        if self.plan.synth:
            payload = {"ref": ref, "commit": commit.id, "environment": environment.digest}
            following.append(self.next_work(lease, "propose", ref, payload, source="synth"))
        return done(*following, write=write, detail=detail, **usage)

    def _recipe(self, ref: str) -> tuple[Commit, Recipe, bytes]:
        repository = self.app.repository(ref)
        newest = next(itertools.islice(repository.commits(limit=1), 1), None)
        if newest is None:
            raise BuilderError(f"{repository.name} has no revisions.", reason=Reason.repository_broken, phase="base")
        tree = repository.tree(newest.id)
        recipe = self.recipe_of(tree, newest.version, newest.authored_at)
        return newest, recipe, tree


class BuildStage(EnvironmentStage):
    """The environment of a task, from the fixed state's own metadata."""

    name = "build"

    async def run(self, lease: Lease) -> Completed:
        """Build or share; queue the task for validation."""
        recipe, tree = await asyncio.to_thread(self._recipe, lease.work.key)
        environment, log = await self.environment_of(recipe, tree, lease.work.repo)
        payload = {"environment": environment.digest, "recipe": recipe.digest}
        return done(
            self.next_work(lease, "validate", lease.work.key, payload),
            write=lambda tx: self.keep(recipe, environment, tx),
            detail=f"recipe {recipe.digest}",
            log=await asyncio.to_thread(self.put_log, log),
            bytes_written=environment.size_bytes if log else 0,
        )

    def _recipe(self, task_id: str) -> tuple[Recipe, bytes]:
        task = self.task(task_id)
        candidate = must(queries.candidate(self.app.store, task_id), f"Candidate {task_id}")
        tree = fixed_tree(self.app.repository(task.repo), candidate)
        return self.recipe_of(tree, task.version, task.created_at), tree


def contents(tree: bytes) -> Mapping[str, bytes]:
    """Path -> content of a tree's regular files."""
    return {path: file.data for path, file in unpack(tree).items() if file.link is None}


def judge(report: TestReport) -> tuple[str, str]:
    """Rungs two and three: ``(reason, detail)``, the reason empty when both hold. Pure."""
    ran = [status for status in report.statuses.values() if status is not TestStatus.skipped]
    good = sum(status in (TestStatus.passed, TestStatus.xfailed) for status in ran)
    detail = f"{good} of {len(ran)} tests pass, {len(report.collection_errors)} files do not collect"
    if not report.statuses:
        if report.outcome is RunOutcome.timed_out:
            return Reason.suite_timeout, detail
        return Reason.collect_failed, "\n".join([detail, *report.collection_errors.values()]) + report.log_tail[-500:]
    if report.outcome is RunOutcome.timed_out:
        return Reason.suite_timeout, detail
    if report.outcome in (RunOutcome.crashed, RunOutcome.out_of_memory):
        return Reason.suite_crash, f"{detail}; the run ended as {report.outcome}"
    if good < PASS_SHARE * len(ran) or not good:
        return Reason.tests_mostly_fail, detail
    return "", detail
