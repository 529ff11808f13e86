"""Nouns by identity, and pages of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from envfarm.core.environment import Environment, Recipe
from envfarm.core.rollout import Rollout
from envfarm.core.source import Candidate
from envfarm.core.task import Task
from envfarm.core.verdict import Outcome, Validation, Verdict

from .. import tables as t
from ..codec import load, unpack
from ..db import Store
from ..rows import TaskRow
from .reading import body, packed, read, time_of


def candidate(store: Store, id: str) -> Candidate | None:
    """A candidate, of whichever run has it."""
    return body(store, Candidate, sa.select(t.candidates.c.body).where(t.candidates.c.id == id).limit(1))


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
    rows = read(store, query.order_by(t.tasks.c.id).limit(limit).offset(offset))
    return [_task_row(row) for row in rows]


def task_row(store: Store, id: str, run: str | None = None) -> TaskRow | None:
    """A task and its state: of ``run``, or where it was written last."""
    query = sa.select(t.tasks).where(t.tasks.c.id == id).order_by(t.tasks.c.updated_at.desc()).limit(1)
    if run is not None:
        query = query.where(t.tasks.c.run == run)
    rows = read(store, query)
    return _task_row(rows[0]) if rows else None


def task(store: Store, id: str, run: str | None = None) -> Task | None:
    """A task: of ``run``, or as it was written last."""
    row = task_row(store, id, run)
    return row.task if row else None


def recipe(store: Store, digest: str) -> Recipe | None:
    """A recipe."""
    return body(store, Recipe, sa.select(t.recipes.c.body).where(t.recipes.c.digest == digest))


def environment(store: Store, digest: str) -> Environment | None:
    """An environment."""
    return body(store, Environment, sa.select(t.environments.c.body).where(t.environments.c.digest == digest))


def environment_for_recipe(store: Store, recipe_digest: str) -> Environment | None:
    """The environment built last from that recipe."""
    e = t.environments
    query = sa.select(e.c.body).where(e.c.recipe_digest == recipe_digest).order_by(e.c.built_at.desc()).limit(1)
    return body(store, Environment, query)


def environments(store: Store, run: str) -> list[Environment]:
    """Environments that a run built or used again, by repository and age."""
    e, link = t.environments, t.run_environments
    query = (
        sa.select(e.c.body)
        .join(link, link.c.digest == e.c.digest)
        .where(link.c.run == run)
        .order_by(e.c.repo_name, e.c.built_at)
    )
    return [load(Environment, row.body) for row in read(store, query)]


def validation(store: Store, task_id: str, environment_digest: str) -> Validation | None:
    """The three-state evidence about a task in an environment."""
    v = t.validations
    here = (v.c.task_id == task_id) & (v.c.environment_digest == environment_digest)
    return packed(store, Validation, sa.select(v.c.packed).where(here))


def validations(store: Store, task_id: str) -> list[Validation]:
    """All evidence about a task, newest first: of every environment it was validated in."""
    v = t.validations
    rows = read(store, sa.select(v.c.packed).where(v.c.task_id == task_id))
    return sorted((unpack(Validation, row.packed) for row in rows), key=lambda found: found.validated_at, reverse=True)


def verdicts(store: Store, task_id: str, limit: int = 100) -> list[Verdict]:
    """Verdicts about submissions to a task, newest first."""
    v = t.verdicts
    rows = read(store, sa.select(v.c.packed).where(v.c.task_id == task_id))
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
    found = packed(store, Verdict, query)
    return found.model_copy(update={"cached": True}) if found else None


def rollout(store: Store, id: str) -> Rollout | None:
    """A rollout."""
    return packed(store, Rollout, sa.select(t.rollouts.c.packed).where(t.rollouts.c.id == id))


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
    return [unpack(Rollout, row.packed) for row in read(store, query)]


def _task_row(row: Row[Any]) -> TaskRow:
    return TaskRow(
        run=row.run,
        state=row.state,
        updated_at=time_of(row.updated_at),
        published_at=time_of(row.published_at) if row.published_at is not None else None,
        task=unpack(Task, row.packed),
    )
