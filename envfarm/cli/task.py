"""``envfarm task``: list, show, validate, grade and export tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from envfarm.core.config import Config
from envfarm.core.environment import Environment
from envfarm.core.errors import ConfigError, Reason
from envfarm.core.rollout import Submission
from envfarm.core.task import Task
from envfarm.core.verdict import Validation, Verdict
from envfarm.store import Store, queries
from envfarm.wiring.app import open_app, open_store

from .common import ConfigFile, Home, Json, configuration, note, print_json, print_table, run_async

app = typer.Typer(add_completion=False, no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(help="The task's id.")]


@app.command("list")
def list_tasks(
    run: Annotated[str, typer.Option("--run", help="The run.")],
    state: Annotated[str | None, typer.Option(help="draft, valid, invalid or published.")] = "published",
    kind: Annotated[str | None, typer.Option(help="release, commit or synth.")] = None,
    repo: Annotated[str | None, typer.Option(help="A repository's short name.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 1000,
    config: ConfigFile = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Tasks of a run."""
    store, _ = open_store(configuration(config, home))
    with store:
        rows = queries.tasks(store, run, repo=repo, kind=kind, state=state, limit=limit)
    if json:
        print_json([{"state": row.state} | row.task.model_dump(mode="json") for row in rows])
        return
    table = [(r.task.id, r.task.kind, r.state, len(r.task.fail_to_pass), len(r.task.pass_to_pass)) for r in rows]
    print_table(("task", "kind", "state", "f2p", "p2p"), table)


@app.command()
def show(task_id: TaskId, config: ConfigFile = None, home: Home = None, json: Json = False) -> None:
    """A task's statement, tests and gold patch."""
    store, blobs = open_store(configuration(config, home))
    with store:
        row = queries.task_row(store, task_id)
        if row is None:
            raise _unknown(f"Task {task_id}")
        task = row.task
        patch = blobs.get(task.gold_patch).decode("utf-8", "replace")
    if json:
        print_json({"state": row.state, "gold": patch, "digest": task.digest} | task.model_dump(mode="json"))
        return
    sys.stdout.write(f"{task.ref}\n{task.kind}, {row.state}, {task.repo} at {task.base_commit[:12]}\n\n")
    sys.stdout.write(f"{task.statement.text}\n\nfail to pass:\n")
    sys.stdout.writelines(f"  {test}\n" for test in task.fail_to_pass)
    sys.stdout.write(f"pass to pass: {len(task.pass_to_pass)} tests\n\n{patch}")


@app.command()
def validate(task_id: TaskId, config: ConfigFile = None, home: Home = None, json: Json = False) -> int:
    """Run the three states of a task again and say whether it still holds."""
    validation = run_async(_validate(configuration(config, home), task_id))
    if json:
        print_json(validation)
    else:
        counts = sorted((str(kind), len(validation.tests(kind))) for kind in set(validation.transitions.values()))
        note("valid" if validation.valid else f"invalid: {validation.reason}: {validation.detail}")
        print_table(("transition", "tests"), counts)
    return 0 if validation.valid else 1


@app.command()
def grade(
    task_id: TaskId,
    patch: Annotated[Path | None, typer.Argument(help="A unified diff; '-' reads stdin; none: empty.")] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Grade the gold patch.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run it even if a verdict is known.")] = False,
    config: ConfigFile = None,
    home: Home = None,
    json: Json = False,
) -> int:
    """Judge a patch in a fresh box."""
    resolved = configuration(config, home)
    text = _read(patch) if patch else ""
    verdict = run_async(_grade(resolved, task_id, text, gold=gold, fresh=fresh))
    if json:
        print_json(verdict)
    else:
        print_table(
            ("verdict", "reason", "seconds", "cached"),
            [(verdict.outcome, verdict.reason, verdict.duration_sec, verdict.cached)],
        )
    return 0 if verdict.passed else 1


@app.command()
def export(
    run: Annotated[str, typer.Option("--run", help="The run.")],
    output: Annotated[Path, typer.Argument(help="File to write: .jsonl or .parquet.")],
    config: ConfigFile = None,
    home: Home = None,
) -> None:
    """Published tasks as SWE-bench rows."""
    from envfarm.formats.swebench import from_task, write_rows

    store, blobs = open_store(configuration(config, home))
    with store:
        rows = []
        for row in queries.tasks(store, run, state="published", limit=10_000_000):
            environment = find_environment(store, row.task)
            recipe = queries.recipe(store, environment.recipe_digest)
            rows.append(from_task(row.task, blobs, environment, command=recipe.test if recipe else None))
    write_rows(output, rows)
    note(f"{len(rows)} rows in {output}")


async def _validate(config: Config, task_id: str) -> Validation:
    from envfarm_verifiers.validate import validate as run_states

    async with open_app(config) as built:
        task = find_task(built.store, task_id)
        environment = find_environment(built.store, task)
        recipe = queries.recipe(built.store, environment.recipe_digest)
        if recipe is None:
            raise _unknown(f"The recipe of {task_id}")
        return await run_states(
            task, environment, built.command(recipe), built.runner, built.blobs, repeats=config.build.repeats
        )


async def _grade(config: Config, task_id: str, patch: str, *, gold: bool, fresh: bool) -> Verdict:
    async with open_app(config) as built:
        task = find_task(built.store, task_id)
        environment = find_environment(built.store, task)
        if gold:
            patch = built.blobs.get(task.gold_patch).decode("utf-8", "surrogateescape")
        submission = Submission(task_id=task.id, task_digest=task.digest, patch=patch)
        return await (built.regrader if fresh else built.grader).grade(task, environment, submission)


def find_task(store: Store, task_id: str) -> Task:
    """The task, or ``ConfigError``."""
    found = queries.task(store, task_id)
    if found is None:
        raise _unknown(f"Task {task_id}")
    return found


def find_environment(store: Store, task: Task) -> Environment:
    """The environment a task was validated in, or ``ConfigError``."""
    found = queries.environment(store, task.environment_digest)
    if found is None:
        raise _unknown(f"An environment of task {task.id}")
    return found


def _read(patch: Path) -> str:
    if str(patch) == "-":
        return sys.stdin.read()
    try:
        return patch.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:  # the boundary to the user's file
        raise ConfigError(f"Patch {patch} cannot be read: {error.strerror}.", reason=Reason.usage) from error


def _unknown(what: str) -> ConfigError:
    return ConfigError(
        f"{what} is not in the store.",
        reason=Reason.usage,
        phase="task",
        remedy="See 'envfarm build --list' and 'envfarm task list --run RUN'.",
    )
