"""Writes of nouns. All are upserts by id or digest, so that repeating one changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from envfarm.core.environment import Environment, Recipe
from envfarm.core.errors import Reason, StoreError
from envfarm.core.rollout import Rollout
from envfarm.core.source import Candidate
from envfarm.core.task import Task
from envfarm.core.verdict import Outcome, Validation, Verdict

from . import tables
from .bulk import batches, upsert
from .codec import checked, dump, dump_value, pack

PUBLISHED = "published"
"""The state that :meth:`Transaction.publish` gives a task."""

_CANDIDATES_PER_STATEMENT = 2000
_TASKS_PER_STATEMENT = 1000


def clock(dialect: str) -> sa.ColumnElement[float]:
    """Epoch seconds in a statement: the server's clock on PostgreSQL, so that workers need not agree on theirs; on
    SQLite, which is never remote, this machine's, as the parameter that :func:`clock_values` gives."""
    if dialect == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.statement_timestamp()), sa.Double)
    return sa.bindparam("now", type_=sa.Float)


def clock_values(dialect: str) -> dict[str, float]:
    """Parameters of a statement that holds :func:`clock`."""
    return {} if dialect == "postgresql" else {"now": time.time()}


class Transaction:
    """An open transaction. Use it only inside the block that gave it, on that thread."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self.connection.dialect.name

    @property
    def now(self) -> sa.ColumnElement[float]:
        """Epoch seconds, by :func:`clock`."""
        values = clock_values(self.dialect)
        return sa.literal(values["now"], sa.Float) if values else clock(self.dialect)

    def need_not_last(self) -> None:
        """Let the commit return before it is on the server's disk (PostgreSQL; SQLite never waits). A crash of the
        server may undo it: only for what is harmless to lose, such as a lease, whose holder is then fenced off."""
        if self.dialect == "postgresql":
            self.connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    def put_run(self, id: str, kind: str, config: dict[str, Any]) -> None:
        """A run and its resolved configuration. The time of the first call is kept."""
        checked(id, kind)
        row = (id, kind, dump_value(config), time.time())
        self._put(tables.runs, ["id", "kind", "config", "created_at"], row, key=["id"], keep=["created_at"])

    def put_candidates(self, run: str, candidates: Iterable[Candidate]) -> None:
        """Candidates of a run, in batches. An equal one is left alone."""
        checked(run)
        for batch in batches(candidates, _CANDIDATES_PER_STATEMENT):
            checked(*(candidate.id for candidate in batch))
            upsert(
                self.connection,
                tables.candidates,
                ["id", "run", "body"],
                [(candidate.id, run, dump(candidate)) for candidate in batch],
                key=["id", "run"],
                update=["body"],
                where="candidates.body <> excluded.body",
            )

    def put_task(self, run: str, task: Task, state: str) -> None:
        """A task and where it stands: a slug of the caller's (``draft``, ``valid``, ...)."""
        self.put_tasks(run, [(task, state)])

    def put_tasks(self, run: str, tasks: Iterable[tuple[Task, str]]) -> None:
        """Tasks with where they stand, in batches."""
        now = time.time()
        columns = ["id", "run", "state", "kind", "repo_name", "digest", "packed", "updated_at"]
        for batch in batches(tasks, _TASKS_PER_STATEMENT):
            for task, state in batch:
                checked(run, task.id, state, task.repo_name)
            rows = [
                (task.id, run, state, str(task.kind), task.repo_name, task.digest, pack(task), now)
                for task, state in batch
            ]
            upsert(self.connection, tables.tasks, columns, rows, key=["id", "run"], update=columns[2:])

    def publish(self, run: str, task_id: str) -> None:
        """Mark a task as published. Raises ``StoreError`` (internal) if the run has no such task."""
        tasks = tables.tasks
        here = (tasks.c.run == run) & (tasks.c.id == task_id)
        first = sa.func.coalesce(tasks.c.published_at, time.time())
        done = self.connection.execute(sa.update(tasks).where(here).values(state=PUBLISHED, published_at=first))
        if done.rowcount != 1:
            raise StoreError(
                f"Task {task_id} cannot be published: run {run} has no such task.",
                reason=Reason.internal,
                phase="publish",
            )

    def put_recipe(self, recipe: Recipe) -> None:
        """A recipe, by digest."""
        self._put(tables.recipes, ["digest", "body"], (recipe.digest, dump(recipe)), key=["digest"])

    def put_environment(self, run: str, environment: Environment) -> None:
        """A built environment, by digest, and that the run uses it."""
        checked(run, environment.repo_name)
        row = {
            "digest": environment.digest, "recipe_digest": environment.recipe_digest,
            "repo_name": environment.repo_name, "body": dump(environment),
            "built_at": environment.built_at.timestamp(),
        }  # fmt: skip
        self._put(tables.environments, list(row), tuple(row.values()), key=["digest"])
        link = (run, environment.digest)
        upsert(self.connection, tables.run_environments, ["run", "digest"], [link], key=["run", "digest"])

    def put_validation(self, validation: Validation) -> None:
        """The three-state evidence, by task and environment; a newer one replaces it."""
        checked(validation.task_id)
        row = {
            "task_id": validation.task_id, "environment_digest": validation.environment_digest,
            "valid": validation.valid, "reason": str(validation.reason or ""), "packed": pack(validation),
        }  # fmt: skip
        key = ["task_id", "environment_digest"]
        self._put(tables.validations, list(row), tuple(row.values()), key=key)

    def put_verdict(self, verdict: Verdict) -> None:
        """A verdict, by task, submission and grader. The first that scores stands: a later one never replaces it, so
        that what was rewarded stays what is read. An ``unscorable`` one gives way."""
        checked(verdict.task_id, verdict.grader)
        row = {
            "task_digest": verdict.task_digest, "submission_digest": verdict.submission_digest,
            "grader": verdict.grader, "task_id": verdict.task_id, "outcome": str(verdict.outcome),
            "packed": pack(verdict),
        }  # fmt: skip
        key = ["task_digest", "submission_digest", "grader"]
        gives_way = f"verdicts.outcome = '{Outcome.unscorable}'"
        self._put(tables.verdicts, list(row), tuple(row.values()), key=key, where=gives_way)

    def put_rollout(self, run: str, rollout: Rollout) -> None:
        """A rollout, by id: with its verdict once it has one."""
        checked(run, rollout.id, rollout.task_id, rollout.policy)
        row = {
            "id": rollout.id, "run": run, "task_id": rollout.task_id, "policy": rollout.policy,
            "stop": str(rollout.stop), "outcome": str(rollout.verdict.outcome) if rollout.verdict else "",
            "started_at": rollout.started_at.timestamp(), "packed": pack(rollout),
        }  # fmt: skip
        self._put(tables.rollouts, list(row), tuple(row.values()), key=["id"])

    def _put(
        self, table: sa.Table, columns: list[str], row: tuple[Any, ...], *, key: list[str],
        keep: Iterable[str] = (), where: str = "",
    ) -> None:  # fmt: skip
        update = [name for name in columns if name not in key and name not in keep]
        upsert(self.connection, table, columns, [row], key=key, update=update, where=where)
