"""Reads, each named by the question it answers. Lists are paged; an item that is not there is None."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import Row

from envfarm.core.environment import Environment, Recipe
from envfarm.core.errors import FailureRecord
from envfarm.core.ports import StageOutcome
from envfarm.core.rollout import Rollout
from envfarm.core.source import Candidate
from envfarm.core.stats import wilson
from envfarm.core.task import Task
from envfarm.core.verdict import Outcome, Validation, Verdict

from . import tables as t
from .codec import load, load_value, unpack
from .db import Store
from .rows import EventRow, FunnelRow, Rate, ReasonRow, RepoRow, RunRow, TaskRow

N = TypeVar("N", bound=BaseModel)


def runs(store: Store) -> list[RunRow]:
    """All runs, newest first."""
    rows = _all(store, sa.select(t.runs).order_by(t.runs.c.created_at.desc(), t.runs.c.id))
    return [
        RunRow(id=row.id, kind=row.kind, config=load_value(row.config), created_at=_time(row.created_at))
        for row in rows
    ]


def funnel(store: Store, run: str, repo: str | None = None) -> list[FunnelRow]:
    """Ended items of a run by stage, source, outcome and reason; of one repository (source then empty) if named."""
    table = t.funnel if repo is None else t.funnel_repos
    source = table.c.source if repo is None else sa.literal("").label("source")
    group = [table.c.stage, source, table.c.outcome, table.c.reason]
    query = (
        sa.select(
            *group,
            _sum(table.c.n).label("n"),
            sa.func.sum(table.c.wall_sec).label("wall_sec"),
            sa.func.sum(table.c.cpu_sec).label("cpu_sec"),
            _sum(table.c.bytes_written).label("bytes_written"),
        )
        .where(table.c.run == run)
        .group_by(table.c.stage, table.c.outcome, table.c.reason, *([source] if repo is None else []))
        .order_by(table.c.stage, "source", table.c.outcome, table.c.reason)
    )
    if repo is not None:
        query = query.where(table.c.repo == repo)
    return [FunnelRow.model_validate(dict(row._mapping)) for row in _all(store, query)]


def reasons(store: Store, run: str, stage: str | None = None, repo: str | None = None) -> list[ReasonRow]:
    """Why items of a run ended as they did, most frequent first."""
    table = t.funnel if repo is None else t.funnel_repos
    group = (table.c.stage, table.c.outcome, table.c.reason)
    query = sa.select(*group, _sum(table.c.n).label("n")).where(table.c.run == run).group_by(*group)
    if stage is not None:
        query = query.where(table.c.stage == stage)
    if repo is not None:
        query = query.where(table.c.repo == repo)
    rows = [ReasonRow.model_validate(dict(row._mapping)) for row in _all(store, query)]
    return sorted(rows, key=lambda row: (-row.n, row.stage, row.reason))


def environment_success(
    store: Store, run: str, by: Literal["source", "repo", "reason"] = "source", stage: str = "build"
) -> list[Rate]:
    """Environments built over environments tried, all failures counted, by ``source`` or ``repo``.

    ``by="reason"`` gives each way to end (``done`` for success) as a share of all tried.
    """
    table = t.funnel_repos if by == "repo" else t.funnel
    built = sa.case((table.c.outcome == StageOutcome.done, table.c.n), else_=0)
    key = {"source": "source", "repo": "repo", "reason": "reason"}[by]
    query = (
        sa.select(table.c[key].label("key"), _sum(built).label("built"), _sum(table.c.n).label("n"))
        .where(table.c.run == run, table.c.stage == stage)
        .group_by(table.c[key])
        .order_by(table.c[key])
    )
    rows = _all(store, query)
    if by != "reason":
        return [_rate(row.key, row.built, row.n) for row in rows]
    tried = sum(row.n for row in rows)
    return [_rate(row.key or StageOutcome.done, row.n, tried) for row in rows]


def events(
    store: Store,
    run: str,
    stage: str | None = None,
    outcome: str | None = None,
    reason: str | None = None,
    repo: str | None = None,
    limit: int = 100,
    offset: int = 0,
    before: int | None = None,
) -> list[EventRow]:
    """Ended items of a run, newest first. ``before`` is the id of the last one seen: pages by it cost the same
    however far down they are, while ``offset`` reads what it skips."""
    e = t.events
    where = [e.c.run == run]
    if before is not None:
        where.append(e.c.id < before)
    driving = e.c.repo if repo is not None else e.c.reason if reason is not None else None
    if driving is not None:
        for column, value in ((e.c.repo, repo), (e.c.reason, reason), (e.c.stage, stage), (e.c.outcome, outcome)):
            if value is not None:
                # Joined to nothing, a column is no index key: so the rows come in order from the driving one's index.
                where.append((column if column is driving else column + "") == value)
        return _events(store, sa.select(e).where(*where), limit, offset)
    # An index reads one stage and outcome in order; so a page is merged from the heads of those it may hold.
    outcomes = [outcome] if outcome is not None else [str(item) for item in StageOutcome]
    stages = [stage] if stage is not None else sorted({row.stage for row in reasons(store, run)})
    heads = [
        sa.select(e)
        .where(*where, e.c.stage == one, e.c.outcome == each)
        .order_by(e.c.id.desc())
        .limit(limit + offset)
        .subquery()
        for one in stages
        for each in outcomes
    ]
    if not heads:
        return []
    merged = sa.union_all(*(sa.select(head) for head in heads)).subquery()
    return _events(store, sa.select(merged), limit, offset)


def quarantined(store: Store, run: str, limit: int = 1000, offset: int = 0) -> list[EventRow]:
    """Items given up, with their last failure, newest first."""
    return events(store, run, outcome=StageOutcome.failed, limit=limit, offset=offset)


def repositories(
    store: Store, run: str, entry: Sequence[str], stages: Sequence[str], first: str, limit: int = 100, offset: int = 0
) -> tuple[list[RepoRow], int]:
    """A page of repositories with their ended items at ``stages``, and how many there are (0 beyond the last page).

    A repository is there once it has ended one of the stages ``entry``. Those with most items done at the stage
    ``first`` come first, then by name.
    """
    f = t.funnel_repos
    done = sa.case(((f.c.stage == first) & (f.c.outcome == StageOutcome.done), f.c.n), else_=0)
    here = (f.c.run == run) & f.c.stage.in_([*entry, first])
    order = sa.func.sum(done).desc(), f.c.repo
    page = _all(
        store,
        sa.select(f.c.repo, sa.func.count().over().label("total")).where(here).group_by(f.c.repo).order_by(*order)
        .limit(limit).offset(offset),
    )  # fmt: skip
    counts: dict[str, dict[str, dict[StageOutcome, int]]] = {row.repo: {} for row in page}
    wanted = (f.c.run == run) & f.c.stage.in_(stages) & f.c.repo.in_(list(counts))
    group = (f.c.repo, f.c.stage, f.c.outcome)
    for row in _all(store, sa.select(*group, _sum(f.c.n).label("n")).where(wanted).group_by(*group)):
        counts[row.repo].setdefault(row.stage, {})[StageOutcome(row.outcome)] = row.n
    return [RepoRow(repo=repo, counts=each) for repo, each in counts.items()], page[0].total if page else 0


def candidate(store: Store, id: str) -> Candidate | None:
    """A candidate, of whichever run has it."""
    return _body(store, Candidate, sa.select(t.candidates.c.body).where(t.candidates.c.id == id).limit(1))


def tasks(
    store: Store,
    run: str,
    repo: str | None = None,
    kind: str | None = None,
    state: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[TaskRow]:
    """Tasks of a run by id. ``repo`` is the repository's short name."""
    query = sa.select(t.tasks).where(t.tasks.c.run == run)
    for column, value in ((t.tasks.c.repo_name, repo), (t.tasks.c.kind, kind), (t.tasks.c.state, state)):
        if value is not None:
            query = query.where(column == value)
    rows = _all(store, query.order_by(t.tasks.c.id).limit(limit).offset(offset))
    return [_task_row(row) for row in rows]


def task_row(store: Store, id: str, run: str | None = None) -> TaskRow | None:
    """A task and its state: of ``run``, or where it was written last."""
    query = sa.select(t.tasks).where(t.tasks.c.id == id).order_by(t.tasks.c.updated_at.desc()).limit(1)
    if run is not None:
        query = query.where(t.tasks.c.run == run)
    rows = _all(store, query)
    return _task_row(rows[0]) if rows else None


def task(store: Store, id: str, run: str | None = None) -> Task | None:
    """A task: of ``run``, or as it was written last."""
    row = task_row(store, id, run)
    return row.task if row else None


def recipe(store: Store, digest: str) -> Recipe | None:
    """A recipe."""
    return _body(store, Recipe, sa.select(t.recipes.c.body).where(t.recipes.c.digest == digest))


def environment(store: Store, digest: str) -> Environment | None:
    """An environment."""
    return _body(store, Environment, sa.select(t.environments.c.body).where(t.environments.c.digest == digest))


def environment_for_recipe(store: Store, recipe_digest: str) -> Environment | None:
    """The environment built last from that recipe."""
    e = t.environments
    query = sa.select(e.c.body).where(e.c.recipe_digest == recipe_digest).order_by(e.c.built_at.desc()).limit(1)
    return _body(store, Environment, query)


def environments(store: Store, run: str) -> list[Environment]:
    """Environments that a run built or used again, by repository and age."""
    e, link = t.environments, t.run_environments
    query = (
        sa.select(e.c.body)
        .join(link, link.c.digest == e.c.digest)
        .where(link.c.run == run)
        .order_by(e.c.repo_name, e.c.built_at)
    )
    return [load(Environment, row.body) for row in _all(store, query)]


def validation(store: Store, task_id: str, environment_digest: str) -> Validation | None:
    """The three-state evidence about a task in an environment."""
    v = t.validations
    here = (v.c.task_id == task_id) & (v.c.environment_digest == environment_digest)
    return _packed(store, Validation, sa.select(v.c.packed).where(here))


def validations(store: Store, task_id: str) -> list[Validation]:
    """All evidence about a task, newest first: of every environment it was validated in."""
    v = t.validations
    rows = _all(store, sa.select(v.c.packed).where(v.c.task_id == task_id))
    return sorted((unpack(Validation, row.packed) for row in rows), key=lambda found: found.validated_at, reverse=True)


def verdicts(store: Store, task_id: str, limit: int = 100) -> list[Verdict]:
    """Verdicts about submissions to a task, newest first."""
    v = t.verdicts
    rows = _all(store, sa.select(v.c.packed).where(v.c.task_id == task_id))
    found = sorted((unpack(Verdict, row.packed) for row in rows), key=lambda one: one.graded_at, reverse=True)
    return found[:limit]


def verdict_for(store: Store, task_digest: str, submission_digest: str, grader: str) -> Verdict | None:
    """The verdict cache: the verdict that stands, marked ``cached``. ``unscorable`` ones do not stand."""
    v = t.verdicts
    query = sa.select(v.c.packed).where(
        v.c.task_digest == task_digest,
        v.c.submission_digest == submission_digest,
        v.c.grader == grader,
        v.c.outcome != Outcome.unscorable,
    )
    found = _packed(store, Verdict, query)
    return found.model_copy(update={"cached": True}) if found else None


def rollout(store: Store, id: str) -> Rollout | None:
    """A rollout."""
    return _packed(store, Rollout, sa.select(t.rollouts.c.packed).where(t.rollouts.c.id == id))


def rollouts(
    store: Store,
    run: str,
    task_id: str | None = None,
    policy: str | None = None,
    outcome: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> list[Rollout]:
    """Rollouts of a run, newest first. ``outcome`` is a verdict's, or empty for those not graded."""
    r = t.rollouts
    query = sa.select(r.c.packed).where(r.c.run == run)
    for column, value in ((r.c.task_id, task_id), (r.c.policy, policy), (r.c.outcome, outcome)):
        if value is not None:
            query = query.where(column == value)
    query = query.order_by(r.c.started_at.desc(), r.c.id).limit(limit).offset(offset)
    return [unpack(Rollout, row.packed) for row in _all(store, query)]


def _all(store: Store, query: sa.Executable) -> list[Row[Any]]:
    return store.read(lambda connection: list(connection.execute(query)))


def _body(store: Store, kind: type[N], query: sa.Executable) -> N | None:
    rows = _all(store, query)
    return load(kind, rows[0][0]) if rows else None


def _packed(store: Store, kind: type[N], query: sa.Executable) -> N | None:
    rows = _all(store, query)
    return unpack(kind, rows[0][0]) if rows else None


def _events(store: Store, query: sa.Select[*tuple[Any, ...]], limit: int, offset: int) -> list[EventRow]:
    ordered = query.order_by(sa.desc("id")).limit(limit).offset(offset)
    return [_event(row) for row in _all(store, ordered)]


def _event(row: Row[Any]) -> EventRow:
    values = {**row._mapping, "at": _time(row.at)}
    values["failure"] = load(FailureRecord, row.failure) if row.failure else None
    del values["item_id"]
    return EventRow.model_validate(values)


def _task_row(row: Row[Any]) -> TaskRow:
    return TaskRow(
        run=row.run,
        state=row.state,
        updated_at=_time(row.updated_at),
        published_at=_time(row.published_at) if row.published_at is not None else None,
        task=unpack(Task, row.packed),
    )


def _rate(key: str, k: int, n: int) -> Rate:
    low, high = wilson(k, n)
    return Rate(key=key, k=k, n=n, low=low, high=high)


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(column), sa.BigInteger)


def _time(epoch_sec: float) -> datetime:
    return datetime.fromtimestamp(epoch_sec, UTC)
