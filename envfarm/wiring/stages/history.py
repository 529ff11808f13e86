"""mine, filter, draft: from a repository's history to task drafts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from threading import Lock

from envfarm_builders.draft import draft
from envfarm_builders.filters import StaticFilter
from envfarm_builders.issues import default_sources
from envfarm_builders.mine import RepositoryMiner

from envfarm.core.ports import Repository, StageOutcome
from envfarm.core.work import Lease
from envfarm.farm.stage import Completed
from envfarm.store import queries

from .common import RunStage, done, must, rejected


class MineStage(RunStage):
    """A repository's revision pairs become candidates."""

    name = "mine"

    async def run(self, lease: Lease) -> Completed:
        """Read the history; queue every candidate for the filter."""
        return await asyncio.to_thread(self._mine, lease)

    def _mine(self, lease: Lease) -> Completed:
        started = time.thread_time()
        repository = self.app.repository(lease.work.payload["ref"])
        candidates = list(RepositoryMiner().mine(repository, default_sources(), self.plan.build.limit))
        following = [self.next_work(lease, "filter", found.id, lease.work.payload) for found in candidates]
        return done(
            *following,
            write=lambda tx: tx.put_candidates(self.run_name, candidates),
            detail=f"{len(candidates)} candidates",
            cpu_sec=time.thread_time() - started,
        )


class FilterStage(RunStage):
    """The published rules."""

    name = "filter"

    def __post_init__(self) -> None:
        # One for each repository: a filter remembers the patches it has seen, to turn duplicates away.
        self._filters: dict[str, StaticFilter] = {}
        self._lock = Lock()

    async def run(self, lease: Lease) -> Completed:
        """Turn the candidate away, or queue it for its draft."""
        return await asyncio.to_thread(self._filter, lease)

    def _filter(self, lease: Lease) -> Completed:
        started = time.thread_time()
        candidate = must(queries.candidate(self.app.store, lease.work.key), f"Candidate {lease.work.key}")
        repository = self.app.repository(candidate.repo)
        refused = self._filter_of(candidate.repo, repository, lease.work.repo).check(repository, candidate)
        cpu_sec = time.thread_time() - started
        if refused:
            return rejected(refused.reason, refused.detail, cpu_sec=cpu_sec)
        return done(self.next_work(lease, "draft", candidate.id, lease.work.payload), cpu_sec=cpu_sec)

    def _filter_of(self, ref: str, repository: Repository, label: str) -> StaticFilter:
        """The filter of a repository, which knows what an earlier process of this run let through."""
        with self._lock:
            if ref not in self._filters:
                fresh = StaticFilter(self.plan.build)
                for id in self._let_through(label):
                    found = queries.candidate(self.app.store, id)
                    if found is not None and found.repo == ref:
                        fresh.remember(repository, found)
                self._filters[ref] = fresh
            return self._filters[ref]

    def _let_through(self, label: str) -> Iterator[str]:
        last: int | None = None
        while page := queries.events(
            self.app.store, self.run_name, stage=self.name, outcome=StageOutcome.done, repo=label, before=last
        ):
            yield from (event.key for event in page)
            last = page[-1].id


class DraftStage(RunStage):
    """Trees, patches and statement become a task without an environment."""

    name = "draft"

    async def run(self, lease: Lease) -> Completed:
        """Write the blobs; queue the task for its environment."""
        return await asyncio.to_thread(self._draft, lease)

    def _draft(self, lease: Lease) -> Completed:
        started = time.thread_time()
        candidate = must(queries.candidate(self.app.store, lease.work.key), f"Candidate {lease.work.key}")
        task = draft(self.app.repository(candidate.repo), candidate, self.app.blobs)
        return done(
            self.next_work(lease, "build", task.id, lease.work.payload),
            write=lambda tx: tx.put_task(self.run_name, task, "draft"),
            cpu_sec=time.thread_time() - started,
        )
