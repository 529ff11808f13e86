"""``envfarm build``: repositories in, validated tasks out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from envfarm.core.config import Config
from envfarm.core.errors import ConfigError, Reason
from envfarm.farm.progress import Progress
from envfarm.wiring.plan import POLICIES, RunPlan

from .common import ConfigFile, Home, Json, Workers, configuration, note, print_json, print_table, run_async
from .progress import shown
from .tables import print_summary

app = typer.Typer(add_completion=False)

Repositories = Annotated[
    list[str] | None, typer.Argument(help="git:PATH (a clone, bare or not) or pypi:NAME; a bare path is a clone.")
]


@app.command()
def build(
    repositories: Repositories = None,
    run: Annotated[str, typer.Option("--run", help="Name of the run; made from the time when absent.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run where it was cut off.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Revisions looked at for each repository.")] = None,
    synth: Annotated[int, typer.Option(min=0, help="Valid mutants wanted of each repository.")] = 0,
    history: Annotated[bool, typer.Option(help="Mine the history for tasks.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    replays: Annotated[int, typer.Option(min=0, help="Independent gold and empty passes over valid tasks.")] = 0,
    policy: Annotated[list[str] | None, typer.Option(help=f"Play tasks with it: {', '.join(POLICIES)}.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and do nothing.")] = False,
    list_runs: Annotated[bool, typer.Option("--list", help="List the runs of this store.")] = False,
    workers: Workers = None,
    config: ConfigFile = None,
    home: Home = None,
    json: Json = False,
) -> int:
    """Mine repositories, build their environments, validate tasks.

    Every stage is recorded as it ends: an interrupted run goes on with --resume and loses at most the items that were
    under way.
    """
    resolved = configuration(config, home, build__workers=workers, build__limit=limit)
    if list_runs:
        return _list(resolved, json)
    plan = RunPlan(
        repositories=tuple(absolute(ref) for ref in repositories or ()),
        history=history,
        synth=synth,
        seed=seed,
        replays=replays,
        policies=_policies(policy),
        build=resolved.build,
    )
    name = run or f"build-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    _check(plan, run, resume)
    if dry_run:
        print_json({"run": name, "config": resolved.model_dump(mode="json"), "plan": plan.model_dump(mode="json")})
        return 0
    figures = run_async(execute(resolved, name, plan, resume=resume, quiet=json))
    if json:
        print_json(figures)
    else:
        print_summary(figures)
        note(f"\nRun {name}. Look at it with 'envfarm serve', or export it with 'envfarm task export --run {name}'.")
    for loss in figures["packages"]["failed"]:
        note(f"{loss['name']}: {loss['stage']} gave nothing: {loss['detail'] or loss['reason']}")
    lost_all = figures["packages"]["tried"] and not figures["packages"]["mined"]
    return 1 if lost_all else 0


async def execute(config: Config, name: str, plan: RunPlan, *, resume: bool, quiet: bool) -> dict[str, Any]:
    """Work a run off with live progress, and return its figures."""
    from envfarm.wiring.app import open_app
    from envfarm.wiring.run import begin, work_off
    from envfarm.wiring.rungs import STAGES
    from envfarm.wiring.summary import summarise

    async with open_app(config) as built:
        plan = begin(built.store, name, plan, resume=resume)
        progress = Progress(STAGES)
        async with shown(progress, quiet=quiet):
            await work_off(built, name, plan, on_start=progress.start, on_event=progress.event)
        return {"wall_sec": progress.elapsed_sec} | summarise(built.store, name, plan)


def absolute(ref: str) -> str:
    """A ref that means the same in every folder: paths of clones are made absolute."""
    kind, separator, rest = ref.partition(":")
    if separator and kind != "git":
        return ref
    return f"git:{Path(rest if separator else ref).resolve()}"


def _policies(names: list[str] | None) -> tuple[str, ...]:
    for name in names or ():
        if name not in POLICIES:
            raise ConfigError(
                f"There is no policy '{name}'.",
                reason=Reason.usage,
                phase="build",
                remedy=f"Use one of: {', '.join(POLICIES)}.",
            )
    return tuple(names or ())


def _check(plan: RunPlan, run: str, resume: bool) -> None:
    if resume and not run:
        raise ConfigError("--resume needs the run's name.", reason=Reason.usage, remedy="Give it with --run NAME.")
    if not resume and not plan.repositories:
        raise ConfigError(
            "No repository was named.", reason=Reason.usage, remedy="Give git:PATH or pypi:NAME, one or more."
        )


def _list(config: Config, json: bool) -> int:
    from envfarm.store import queries
    from envfarm.wiring.app import open_store

    store, _ = open_store(config)
    with store:
        rows = queries.runs(store)
    if json:
        print_json(rows)
    else:
        print_table(("run", "kind", "begun"), [(row.id, row.kind, f"{row.created_at:%Y-%m-%d %H:%M}") for row in rows])
    return 0
