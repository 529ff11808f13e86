"""Published synth tasks as problems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from envfarm_builders.synth.touched import touched_functions
from envfarm_rl.repair.problem import Problem

from envfarm.core.archive import File, unpack
from envfarm.core.environment import Environment
from envfarm.core.ports import BlobStore
from envfarm.core.task import Task
from envfarm.store import Store, queries

from .pages import failure_of, fits, function_units, problem, valid_edits

MIN_EDITS = 3
"""Valid edits of a function that makes a problem: with fewer there is hardly a choice."""


@dataclass(frozen=True)
class RepairTask:
    """A task with its environment and its page."""

    task: Task
    environment: Environment
    problem: Problem


def repair_tasks(store: Store, blobs: BlobStore, run: str, *, limit: int = 10_000) -> list[RepairTask]:
    """The published synth tasks of a run that fit on a page, by id."""
    rows = queries.tasks(store, run, kind="synth", state="published", limit=limit)
    found: list[RepairTask] = []
    for row in rows:
        environment = queries.environment(store, row.task.environment_digest)
        page = task_problem(row.task, blobs)
        if page is not None and environment is not None:
            found.append(RepairTask(row.task, environment, page))
    return found


def selected_tasks(store: Store, blobs: BlobStore, selections: Iterable[str]) -> list[RepairTask]:
    """:func:`repair_tasks` of each of ``RUN`` or ``RUN:PACKAGE,PACKAGE``: all of a run, or of those packages alone."""
    found: list[RepairTask] = []
    for selection in selections:
        run, _, packages = selection.partition(":")
        tasks = repair_tasks(store, blobs, run)
        found += [each for each in tasks if not packages or each.task.repo_name in packages.split(",")]
    return found


def task_problem(task: Task, blobs: BlobStore) -> Problem | None:
    """The function that the answer lies in, as a page; None where it does not fit on one, or offers no choice."""
    tree = unpack(blobs.get(task.tree))
    touched = touched_functions(blobs.get(task.gold_patch).decode(), tree)
    places = [(path, name) for path, names in touched.items() for name in names]
    if task.mutation is None or len(places) != 1:
        return None
    (path, name) = places[0]
    source = tree[path].data.decode("utf-8")
    line = task.mutation.line
    unit = next((u for u in function_units(source) if u.qualname == name and u.first_line <= line <= u.last_line), None)
    if unit is None or not fits(unit):
        return None
    edits = valid_edits(unit)
    if len(edits) < MIN_EDITS:
        return None
    shown = next((test for test in task.statement.shown_tests if _can_be_run(test, tree)), "")
    return problem(unit, edits, path, failure=failure_of(task.statement.text), shown_test=shown)


def _can_be_run(test: str, tree: dict[str, File]) -> bool:
    """Whether the tree that the policy works in holds the test."""
    path, _, rest = test.partition("::")
    name = rest.rpartition("::")[2].partition("[")[0]
    return path in tree and bool(name) and f"def {name}(".encode() in tree[path].data
