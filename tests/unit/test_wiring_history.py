"""A resumed run's filter knows what the process before it let through."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from envfarm_builders.issues import default_sources
from envfarm_builders.mine import RepositoryMiner
from envfarm_builders.repos.git import GitRepository

from envfarm.core.config import BuildConfig
from envfarm.core.ports import StageOutcome
from envfarm.core.source import RejectReason
from envfarm.core.work import Lease, Work
from envfarm.farm.pool import run_workers
from envfarm.farm.stage import Completed, StageResult
from envfarm.store import Store, queries
from envfarm.wiring.plan import RunPlan
from envfarm.wiring.stages.history import FilterStage

from ..repositories import GitHistory

MESSAGE = "Fix what the function gives for a number that is negative"
BASE = {"pkg.py": "def double(x):\n    return x + x\n", "test_pkg.py": "def test_it():\n    assert True\n"}
FIX = {
    "pkg.py": "def double(x):\n    return 2 * x\n",
    "test_pkg.py": BASE["test_pkg.py"] + "\n\ndef test_negative():\n    assert -2 < 0\n",
}


class Draft:
    """Takes what the filter lets through."""

    name = "draft"

    async def run(self, lease: Lease) -> Completed:
        return Completed(StageResult(outcome=StageOutcome.done))


async def test_a_patch_let_through_before_a_restart_is_a_duplicate_after_it(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "repo")
    history.commit("Start", BASE)
    history.commit(MESSAGE, FIX)
    history.commit("Take the fix back, for it was not asked for", BASE)
    history.commit(MESSAGE, FIX)
    repository = GitRepository(history.path)
    found = list(RepositoryMiner().mine(repository, default_sources(), None))
    first, again = found[0], found[-1]
    with Store.open(f"sqlite:///{tmp_path / 'w.db'}") as store:
        with store.begin() as transaction:
            transaction.put_candidates("r", found)
        app = cast("Any", SimpleNamespace(store=store, repository=lambda ref: repository))
        for candidate in (first, again):
            store.queue.enqueue([Work(run="r", stage="filter", key=candidate.id, repo="repo")])
            stage = FilterStage(app, "r", RunPlan(repositories=(first.repo,)))
            await run_workers(store.queue, "r", {"filter": stage, "draft": Draft()}, BuildConfig(workers=1))
        ended = {event.key: event.reason for event in queries.events(store, "r", stage="filter")}
    repository.close()
    assert ended == {first.id: "", again.id: RejectReason.duplicate}
