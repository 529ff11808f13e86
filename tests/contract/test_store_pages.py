"""The reads that pages stand on, over SQLite and over PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from envfarm.core.ports import StageOutcome
from envfarm.core.verdict import Outcome
from envfarm.core.work import StageResult
from envfarm.store import Store, queries

from .store_nouns import digest, validation, verdict, work

DONE, REJECTED, FAILED = StageOutcome.done, StageOutcome.rejected, StageOutcome.failed


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as opened:
        yield opened


def end(store: Store, stage: str, key: str, repo: str, outcome: StageOutcome = DONE, reason: str = "") -> None:
    store.queue.enqueue([work(key, stage=stage, repo=repo)])
    lease = store.queue.lease("r", [stage], "w", 60)
    assert lease is not None
    store.queue.finish(lease, StageResult(outcome=outcome, reason=reason))


def fill(store: Store) -> None:
    for repo, published in (("attrs", 0), ("click", 3), ("jinja2", 1), ("boltons", 1)):
        end(store, "mine", repo, repo)
        end(store, "filter", f"{repo}-1", repo, REJECTED, "no_tests")
        end(store, "filter", f"{repo}-2", repo)
        end(store, "base", repo, repo, FAILED if repo == "attrs" else DONE, "no_tests" if repo == "attrs" else "")
        for number in range(published):
            end(store, "publish", f"{repo}-{number}", repo)


def test_events_agree_however_they_are_asked_for(store: Store) -> None:
    fill(store)
    every = queries.events(store, "r")
    assert len(every) == 21 and [event.id for event in every] == sorted((event.id for event in every), reverse=True)
    for stage in (None, "filter", "base", "unheard-of"):
        for outcome in (None, "done", "rejected", "failed"):
            for reason in (None, "no_tests", "unheard-of"):
                for repo in (None, "attrs", "unheard-of"):
                    asked = {"stage": stage, "outcome": outcome, "reason": reason, "repo": repo}
                    matching = [
                        event
                        for event in every
                        if all(value in (None, getattr(event, name)) for name, value in asked.items())
                    ]
                    assert queries.events(store, "r", **asked) == matching, asked
                    assert queries.events(store, "r", **asked, limit=2, offset=1) == matching[1:3], asked


def test_pages_by_the_last_one_seen_cover_everything_once(store: Store) -> None:
    fill(store)
    seen: list[int] = []
    before = None
    while page := queries.events(store, "r", limit=4, before=before):
        seen += [event.id for event in page]
        before = page[-1].id
    assert seen == [event.id for event in queries.events(store, "r")]


def test_repositories_come_by_what_they_gave(store: Store) -> None:
    fill(store)
    ask = lambda limit, offset: queries.repositories(  # noqa: E731
        store, "r", ("mine", "base"), ("base", "filter", "publish"), "publish", limit, offset
    )
    rows, total = ask(10, 0)
    assert ([row.repo for row in rows], total) == (["click", "boltons", "jinja2", "attrs"], 4)
    assert rows[0].counts == {"base": {DONE: 1}, "filter": {DONE: 1, REJECTED: 1}, "publish": {DONE: 3}}
    assert rows[-1].counts == {"base": {FAILED: 1}, "filter": {DONE: 1, REJECTED: 1}}
    assert [row.repo for row in ask(2, 1)[0]] == ["boltons", "jinja2"] and ask(2, 1)[1] == 4
    assert ask(10, 4) == ([], 0)
    assert queries.repositories(store, "other", ("mine",), ("base",), "publish") == ([], 0)


def test_all_evidence_and_all_verdicts_of_a_task(store: Store) -> None:
    evidence = validation()
    other = evidence.model_copy(update={"environment_digest": digest("d")})
    judged = [verdict(Outcome.passed), verdict(Outcome.failed, submission_digest=digest("c"))]
    with store.begin() as tx:
        for each in (evidence, other):
            tx.put_validation(each)
        for each in judged:
            tx.put_verdict(each)
    found = queries.validations(store, evidence.task_id)
    assert {each.environment_digest for each in found} == {digest("e"), digest("d")}
    assert {each.outcome for each in queries.verdicts(store, judged[0].task_id)} == {Outcome.passed, Outcome.failed}
    assert len(queries.verdicts(store, judged[0].task_id, limit=1)) == 1
    assert queries.validations(store, "nobody") == queries.verdicts(store, "nobody") == []
