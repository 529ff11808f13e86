"""``envfarm rollout``: play tasks with a scripted policy."""

from __future__ import annotations

from typing import Annotated

import typer

from envfarm.core.config import Config
from envfarm.core.rollout import Rollout
from envfarm.store import queries
from envfarm.wiring.app import open_app, open_store

from .common import ConfigFile, Home, Json, configuration, print_json, print_table, run_async

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def play(
    task_id: Annotated[str, typer.Argument(help="The task's id.")],
    policy: Annotated[str, typer.Option(help="oracle, noop or random-edit.")] = "noop",
    seed: Annotated[int, typer.Option()] = 0,
    config: ConfigFile = None,
    home: Home = None,
    json: Json = False,
) -> int:
    """Play one task and grade what is handed in. Exit code 0 when it is solved, 1 otherwise."""
    rollout = run_async(_play(configuration(config, home), task_id, policy, seed))
    if json:
        print_json(rollout)
    else:
        for turn in rollout.turns:
            for call in turn.tool_calls:
                typer.echo(f"[{turn.role}] {call.name} {call.arguments}")
            if turn.text:
                typer.echo(f"[{turn.role}] {turn.text[:2000]}")
        verdict = rollout.verdict
        typer.echo(f"\n{rollout.stop}: {f'{verdict.outcome} ({verdict.reason})' if verdict else rollout.error}")
    return 0 if rollout.verdict and rollout.verdict.passed else 1


@app.command("list")
def list_rollouts(
    run: Annotated[str, typer.Option("--run", help="The run.")],
    policy: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1)] = 1000,
    config: ConfigFile = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Rollouts of a run, newest first."""
    store, _ = open_store(configuration(config, home))
    with store:
        rollouts = queries.rollouts(store, run, policy=policy, limit=limit)
    if json:
        print_json(rollouts)
        return
    rows = [
        (
            r.task_id,
            r.policy,
            r.stop,
            r.verdict.outcome if r.verdict else "-",
            r.verdict.reason if r.verdict else r.error,
        )
        for r in rollouts
    ]
    print_table(("task", "policy", "stop", "verdict", "reason"), rows)


async def _play(config: Config, task_id: str, policy_name: str, seed: int) -> Rollout:
    from envfarm.rollout.minimal import MinimalHarness
    from envfarm.rollout.play import Player
    from envfarm.wiring.policies import make_policy

    from .task import find_environment, find_task

    async with open_app(config) as built:
        task = find_task(built.store, task_id)
        environment = find_environment(built.store, task)
        policy = make_policy(policy_name, task, built.blobs, seed=seed)
        player = Player(built.provider, MinimalHarness(), built.grader, built.blobs, config.limits)
        return await player.play(task, environment, policy, seed=seed)
