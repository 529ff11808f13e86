"""propose, mutate: from a healthy revision to drafts of synth tasks."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from typing import Any

from envfarm_builders.split import source_paths
from envfarm_builders.synth.baseline import Baseline, measure_baseline
from envfarm_builders.synth.choose import Chooser, Proposal, python_sources
from envfarm_builders.synth.edits import Edit
from envfarm_builders.synth.gate import GateLimits, GateOutcome, judge, mutated_files, refuse_copied_source
from envfarm_builders.synth.operators import Operator
from envfarm_builders.synth.task import Origin, all_shown, draft_mutant

from envfarm.core.archive import pack, unpack
from envfarm.core.environment import Environment, TestCommand
from envfarm.core.errors import BuilderError
from envfarm.core.task import Task
from envfarm.core.verdict import Transition, Validation
from envfarm.core.work import Lease
from envfarm.farm.stage import Completed
from envfarm.store import Transaction, queries

from .common import RunStage, done, must, rejected

TRIES = 5
"""Mutants gated for each one wanted, at most."""


class SynthStage(RunStage):
    """What the stages around mutants share."""

    def origin(self, ref: str, commit: str) -> Origin:
        """The healthy revision."""
        repository = self.app.repository(ref)
        files = unpack(repository.tree(commit))
        return Origin(
            repo=repository.ref,
            repo_name=repository.name,
            commit=commit,
            version=next((found.version for found in repository.commits(limit=1) if found.id == commit), ""),
            files=files,
            source_paths=source_paths(files),
        )

    def command(self, environment: Environment) -> TestCommand:
        """How the revision's tests are run."""
        return self.app.command(self.recipe(environment.recipe_digest))

    def hide_failing(self, payload: dict[str, Any], task: Task, validation: Validation) -> Task:
        """The mutant without the tests that only the whole suite has shown to tell of it. The graded states stay what
        they were: tests move from the tree to the trusted side. Raises ``BuilderError`` where that cannot be done."""
        failing = validation.tests(Transition.f2p)
        if len(all_shown(task, failing, self.app.blobs)) <= 1:
            return task
        origin = self.origin(payload["ref"], payload["commit"])
        proposal, report = from_json(payload["proposal"], origin), validation.before[0]
        return draft_mutant(origin, proposal, report, self.app.blobs, created_at=task.created_at, failing=failing)


class ProposeStage(SynthStage):
    """A traced run of the healthy suite; then the mutants that its coverage makes worth a run."""

    name = "propose"

    async def run(self, lease: Lease) -> Completed:
        """Queue the proposals, best first."""
        payload = lease.work.payload
        environment = await asyncio.to_thread(self.environment, payload["environment"])
        refuse_copied_source(environment)
        origin = await asyncio.to_thread(self.origin, payload["ref"], payload["commit"])
        command = await asyncio.to_thread(self.command, environment)
        tree = pack(origin.files)
        baseline = await measure_baseline(environment, command, tree, origin.source_paths, self.app.runner)
        proposals = await asyncio.to_thread(self._proposals, origin, baseline)
        if not proposals:
            return rejected("nothing_to_mutate", "No covered line has a valid edit.", cpu_sec=baseline.cpu_sec)
        shared = {
            **payload,
            "suite": len(baseline.passing),
            "timeout_sec": max(GateLimits().min_timeout_sec, GateLimits().timeout_factor * baseline.duration_sec),
        }
        following = [
            self.next_work(lease, "mutate", f"{payload['ref']}#{number}", shared | {"proposal": to_json(found)})
            for number, found in enumerate(proposals)
        ]
        return done(*following, detail=f"{len(proposals)} proposals", cpu_sec=baseline.cpu_sec)

    def _proposals(self, origin: Origin, baseline: Baseline) -> list[Proposal]:
        chooser = Chooser(python_sources(origin.files, origin.source_paths), baseline, seed=self.plan.seed)
        found: list[Proposal] = []
        while len(found) < TRIES * self.plan.synth and (proposal := chooser.next()) is not None:
            found.append(proposal)
        return found


class MutateStage(SynthStage):
    """One mutant against the tests that reach it."""

    name = "mutate"

    async def run(self, lease: Lease) -> Completed:
        """Queue the draft for validation, unless the tests hardly notice or the repository has its share."""
        payload = lease.work.payload
        if await asyncio.to_thread(self._has_share, lease.work.repo):
            return rejected("share_reached", f"{self.plan.synth} valid mutants of {lease.work.repo} are there.")
        environment = await asyncio.to_thread(self.environment, payload["environment"])
        origin = await asyncio.to_thread(self.origin, payload["ref"], payload["commit"])
        command = await asyncio.to_thread(self.command, environment)
        proposal = from_json(payload["proposal"], origin)
        command = command.model_copy(update={"timeout_sec": min(command.timeout_sec, payload["timeout_sec"])})
        archives = [pack(origin.files), pack(mutated_files(origin.files, proposal))]
        report = await self.app.runner.run(environment, command, archives, only=proposal.tests)
        outcome = judge(report, proposal, payload["suite"])
        if outcome is not GateOutcome.accepted:
            return rejected(outcome, cpu_sec=report.cpu_sec)
        try:
            task = await asyncio.to_thread(
                draft_mutant, origin, proposal, report, self.app.blobs, created_at=datetime.now(UTC)
            )
        except BuilderError as error:  # the boundary of one mutant: its tests cannot be taken out of the tree
            return rejected("cannot_hide", error.message, cpu_sec=report.cpu_sec)
        following = {
            "environment": environment.digest, "recipe": environment.recipe_digest,
            **{name: payload[name] for name in ("ref", "commit", "proposal")},
        }  # fmt: skip

        def write(tx: Transaction) -> None:
            tx.put_task(self.run_name, task, "draft")

        return done(self.next_work(lease, "validate", task.id, following), write=write, cpu_sec=report.cpu_sec)

    def _has_share(self, repo: str) -> bool:
        rows = queries.tasks(self.app.store, self.run_name, repo=repo, kind="synth", limit=10 * self.plan.synth + 10)
        return sum(row.state in ("valid", "published", "draft") for row in rows) >= self.plan.synth


def to_json(proposal: Proposal) -> dict[str, Any]:
    """A proposal without the source it applies to."""
    edit = dataclasses.asdict(proposal.edit)
    del edit["source"]
    return {"path": proposal.path, "tests": list(proposal.tests), "edit": edit}


def from_json(value: dict[str, Any], origin: Origin) -> Proposal:
    """The proposal again, over the origin's source."""
    source = must(origin.files.get(value["path"]), value["path"]).data.decode("utf-8")
    edit = Edit(**{**value["edit"], "operator": Operator(value["edit"]["operator"])}, source=source)
    return Proposal(value["path"], edit, tuple(value["tests"]))
