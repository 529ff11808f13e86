"""Nouns, transactions and queries, over SQLite and over PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta

import pytest

from envfarm.core.errors import Reason, StoreError
from envfarm.core.ports import StageOutcome
from envfarm.core.verdict import Outcome
from envfarm.core.work import StageResult
from envfarm.store import Store, queries

from .children import Child
from .store_nouns import (
    DONE,
    FAILURE,
    WHEN,
    candidate,
    digest,
    environment,
    recipe,
    report,
    rollout,
    task,
    validation,
    verdict,
    work,
)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as opened:
        yield opened


def test_every_noun_comes_back_as_it_went_in_however_often_it_is_put(store: Store) -> None:
    odd = candidate("odd", repo="git:/src/\udcff", source_files=("src/\udcff.py",))
    graded = rollout("two", verdict=verdict(Outcome.failed), started_at=WHEN + timedelta(seconds=1))
    for _ in range(2):
        with store.begin() as tx:
            tx.put_run("r", "build", {"limit": 3, "path": "\udcff"})
            tx.put_candidates("r", [candidate("1"), odd, candidate("1")])
            tx.put_task("r", task("1"), "valid")
            tx.put_recipe(recipe())
            tx.put_environment("r", environment())
            tx.put_validation(validation())
            tx.put_verdict(verdict(Outcome.passed))
            tx.put_rollout("r", rollout("one"))
            tx.put_rollout("r", graded)
    (run,) = queries.runs(store)
    assert (run.id, run.kind, run.config) == ("r", "build", {"limit": 3, "path": "\udcff"})
    assert queries.candidate(store, candidate("1").id) == candidate("1")
    assert queries.candidate(store, odd.id) == odd
    assert queries.task(store, task("1").id) == task("1")
    assert queries.recipe(store, recipe().digest) == recipe()
    assert queries.environment(store, environment().digest) == environment()
    assert queries.environment_for_recipe(store, recipe().digest) == environment()
    assert queries.environments(store, "r") == [environment()]
    assert queries.validation(store, task("1").id, digest("e")) == validation()
    assert queries.rollout(store, "one") == rollout("one")
    assert queries.rollouts(store, "r") == [graded, rollout("one")]
    assert queries.rollouts(store, "r", outcome="fail") == [graded]
    assert queries.rollouts(store, "r", outcome="", policy="scripted", task_id=task("1").id) == [rollout("one")]


def test_what_is_not_there_is_none(store: Store) -> None:
    assert queries.candidate(store, "x") is None
    assert queries.task(store, "x") is None
    assert queries.environment(store, "x") is None
    assert queries.environment_for_recipe(store, "x") is None
    assert queries.validation(store, "x", "y") is None
    assert queries.verdict_for(store, "x", "y", "z") is None
    assert queries.rollout(store, "x") is None
    assert queries.runs(store) == queries.tasks(store, "r") == queries.events(store, "r") == []
    assert queries.environment_success(store, "r") == queries.funnel(store, "r") == []


def test_a_large_validation_is_kept_small(store: Store) -> None:
    large = validation(10_000)
    with store.begin() as tx:
        tx.put_validation(large)
    size = store.read(lambda c: c.exec_driver_sql("SELECT length(packed) FROM validations").scalar_one())
    assert size < len(large.model_dump_json()) / 20
    assert queries.validation(store, large.task_id, large.environment_digest) == large


def test_a_changed_noun_replaces_the_one_before(store: Store) -> None:
    newer = environment(packages=("markupsafe==3.0",), built_at=WHEN + timedelta(days=1))
    with store.begin() as tx:
        tx.put_candidates("r", [candidate("1")])
        tx.put_candidates("r", [candidate("1", version="3.1")])
        tx.put_task("r", task("1"), "draft")
        tx.put_task("r", task("1", pass_to_pass=("t",)), "valid")
        tx.put_environment("r", environment())
        tx.put_environment("r", newer)
    found = queries.candidate(store, candidate("1").id)
    assert found and found.version == "3.1"
    row = queries.task_row(store, task("1").id)
    assert row and (row.state, row.task.pass_to_pass) == ("valid", ("t",))
    assert queries.environment_for_recipe(store, recipe().digest) == newer


def test_many_tasks_at_once_are_put_as_one_by_one(store: Store) -> None:
    many = [(task(str(number), repo_name="jinja2"), "draft") for number in range(1500)]
    with store.begin() as tx:
        tx.put_tasks("r", many)
        tx.put_tasks("r", [(task("7", repo_name="jinja2", pass_to_pass=("t",)), "valid")])
        tx.put_tasks("r", [])
    rows = queries.tasks(store, "r", limit=10_000)
    assert {row.task.id: row.state for row in rows} == {
        each.id: "valid" if each.id == task("7").id else state for each, state in many
    }


def test_a_transaction_that_raises_writes_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.begin() as tx:
        tx.put_run("r", "build", {})
        raise ZeroDivisionError
    assert queries.runs(store) == []


def test_the_verdict_that_scored_first_stands(store: Store) -> None:
    key = (digest("a"), digest("b"), "pytest-1")

    def put(outcome: Outcome, **fields: object) -> Outcome | None:
        with store.begin() as tx:
            tx.put_verdict(verdict(outcome, **fields))
        found = queries.verdict_for(store, *key)
        assert found is None or found.cached
        return found.outcome if found else None

    assert put(Outcome.unscorable) is None
    assert put(Outcome.passed) is Outcome.passed
    assert put(Outcome.failed) is Outcome.passed
    assert put(Outcome.unscorable) is Outcome.passed
    assert put(Outcome.failed, grader="pytest-2", report=report(1)) is Outcome.passed
    found = queries.verdict_for(store, key[0], key[1], "pytest-2")
    assert found and found.outcome is Outcome.failed


def test_tasks_by_filter_and_page(store: Store) -> None:
    with store.begin() as tx:
        for n in range(5):
            tx.put_task("r", task(str(n), repo_name="click" if n == 4 else "jinja2"), "valid" if n % 2 else "draft")
        tx.put_task("another", task("0", version="9"), "draft")
        tx.publish("r", task("1").id)
    ids = lambda rows: [row.task.id[-1] for row in rows]  # noqa: E731
    assert ids(queries.tasks(store, "r")) == ["0", "1", "2", "3", "4"]
    assert ids(queries.tasks(store, "r", limit=2, offset=1)) == ["1", "2"]
    assert ids(queries.tasks(store, "r", repo="click")) == ["4"]
    assert ids(queries.tasks(store, "r", state="valid")) == ["3"]
    assert ids(queries.tasks(store, "r", kind="release", repo="jinja2", state="draft")) == ["0", "2"]
    assert queries.tasks(store, "r", kind="synth") == []
    (published,) = queries.tasks(store, "r", state="published")
    assert published.published_at is not None
    last, first = queries.task(store, task("0").id), queries.task(store, task("0").id, run="r")
    assert last and first and (last.version, first.version) == ("9", "")


def test_publishing_what_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="Task x cannot be published"), store.begin() as tx:
        tx.publish("r", "x")


def finish_some(store: Store) -> None:
    """Ten builds: jinja2 from pypi 3 of 4, click from git 2 of 6 (3 rejected, 1 quarantined)."""
    store.queue.enqueue(work(f"j{n}") for n in range(4))
    store.queue.enqueue(work(f"c{n}", source="git", repo="click") for n in range(6))
    rejected = StageResult(outcome=StageOutcome.rejected, reason="install_failed", wall_sec=2)
    for n in range(10):
        lease = store.queue.lease("r", ["build"], f"w{n}", 60)
        assert lease
        if lease.work.key in ("j0", "c0", "c1", "c2"):
            store.queue.finish(lease, rejected)
        elif lease.work.key == "c3":
            store.queue.fail(lease, FAILURE.model_copy(update={"reason": Reason.disk_full}), retryable=False)
        else:
            store.queue.finish(lease, DONE)


def test_the_funnel_counts_ends_by_label(store: Store) -> None:
    finish_some(store)
    rows = [(row.source, str(row.outcome), row.reason, row.n) for row in queries.funnel(store, "r")]
    assert rows == [
        ("git", "done", "", 2), ("git", "failed", "disk_full", 1), ("git", "rejected", "install_failed", 3),
        ("pypi", "done", "", 3), ("pypi", "rejected", "install_failed", 1),
    ]  # fmt: skip
    jinja = [(row.reason, row.n, row.wall_sec) for row in queries.funnel(store, "r", repo="jinja2")]
    assert jinja == [("", 3, 4.5), ("install_failed", 1, 2.0)]
    reasons = [(row.reason, row.n) for row in queries.reasons(store, "r", stage="build")]
    assert reasons == [("", 5), ("install_failed", 4), ("disk_full", 1)]
    assert [row.n for row in queries.reasons(store, "r", repo="click")] == [3, 2, 1]
    assert queries.reasons(store, "r", stage="mine") == []


def test_environment_success_has_its_denominator_and_interval(store: Store) -> None:
    finish_some(store)
    git, pypi = queries.environment_success(store, "r")
    assert (git.key, git.k, git.n, pypi.key, pypi.k, pypi.n) == ("git", 2, 6, "pypi", 3, 4)
    assert git.low < git.share < git.high
    click, jinja = queries.environment_success(store, "r", by="repo")
    assert (click.key, click.k, click.n, jinja.key, jinja.k, jinja.n) == ("click", 2, 6, "jinja2", 3, 4)
    ways = {rate.key: (rate.k, rate.n) for rate in queries.environment_success(store, "r", by="reason")}
    assert ways == {"done": (5, 10), "install_failed": (4, 10), "disk_full": (1, 10)}


def test_events_by_filter_and_page(store: Store) -> None:
    finish_some(store)
    keys = lambda rows: [row.key for row in rows]  # noqa: E731
    newest = ["c5", "c4", "c3", "c2", "c1", "c0", "j3", "j2", "j1", "j0"]
    assert keys(queries.events(store, "r")) == newest
    assert keys(queries.events(store, "r", stage="build")) == newest
    assert keys(queries.events(store, "r", stage="build", limit=3, offset=2)) == newest[2:5]
    assert keys(queries.events(store, "r", stage="build", outcome="rejected")) == ["c2", "c1", "c0", "j0"]
    assert keys(queries.events(store, "r", reason="install_failed", repo="jinja2")) == ["j0"]
    assert keys(queries.events(store, "r", outcome="failed")) == keys(queries.quarantined(store, "r")) == ["c3"]
    assert queries.events(store, "r", stage="mine") == queries.events(store, "x") == []


OPENING = """
say("ready"); wait()
with Store.open(url) as store:
    with store.begin() as tx:
        tx.put_run(args[1], "x", {})
say("ok")
"""


def test_processes_that_open_an_empty_database_at_once_make_one_schema(database_url: str) -> None:
    processes = [Child(OPENING, database_url, str(n)) for n in range(4)]
    assert [process.hear() for process in processes] == ["ready"] * 4
    for process in processes:
        process.go()
    assert [process.end() for process in processes] == [(0, ["ok"])] * 4
    with Store.open(database_url) as store:
        assert len(queries.runs(store)) == 4


WRITING = """
with Store.open(url) as store:
    for n in range(10**9):
        with store.begin() as tx:
            tx.put_run(f"{n:09}", "x", {})
        say(n)
"""


def test_commits_that_were_acknowledged_survive_sigkill(database_url: str) -> None:
    Store.open(database_url).close()
    child = Child(WRITING, database_url)
    for _ in range(50):
        child.hear()
    child.process.kill()
    code, rest = child.end()
    assert code == -signal.SIGKILL
    acknowledged = 50 + len(rest)
    with Store.open(database_url) as store:
        found = sorted(row.id for row in queries.runs(store))
    assert found[:acknowledged] == [f"{n:09}" for n in range(acknowledged)]
    assert len(found) - acknowledged in (0, 1)


def test_a_database_of_another_schema_is_refused_in_one_sentence(database_url: str) -> None:
    with Store.open(database_url) as store, store.begin() as tx:
        tx.connection.exec_driver_sql("UPDATE meta SET value = '0-old'")
    with pytest.raises(StoreError, match=r"has schema 0-old; this version of envfarm needs schema 1-") as caught:
        Store.open(database_url)
    assert caught.value.reason is Reason.schema_mismatch
    assert "fresh database" in str(caught.value)


def test_tables_of_something_else_are_refused_and_left_alone(database_url: str) -> None:
    with Store.open(database_url) as store, store.begin() as tx:
        tx.connection.exec_driver_sql("DROP TABLE meta")
    with pytest.raises(StoreError, match="holds tables that are not envfarm's"):
        Store.open(database_url)


def test_a_key_that_a_column_cannot_hold_is_refused(store: Store) -> None:
    for key in ("a\0b", "a\udcff"):
        with pytest.raises(StoreError, match="cannot be stored: it holds a NUL or an unpaired surrogate"):
            store.queue.enqueue([work(key)])
        with pytest.raises(StoreError, match="cannot be stored"), store.begin() as tx:
            tx.put_task("r", task("1", repo_name=key), "draft")
    assert store.queue.counts("r") == {}


def test_a_noun_of_another_version_is_refused_in_one_sentence(store: Store) -> None:
    with store.begin() as tx:
        tx.put_recipe(recipe())
        tx.connection.exec_driver_sql("UPDATE recipes SET body = '{\"toolchain\": 3}'")
    with pytest.raises(StoreError, match="A stored Recipe does not fit this version of envfarm: toolchain") as caught:
        queries.recipe(store, recipe().digest)
    assert caught.value.reason is Reason.schema_mismatch
