"""``envfarm train``: training runs, here, detached, or as jobs of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from envfarm.core.errors import ConfigError, Reason
from envfarm.telemetry.training import (
    TRAIN,
    Job,
    State,
    TrainingRun,
    Where,
    read_metrics,
    training_runs,
    write_job,
)

from .common import Home, Json, configuration, note, print_json, print_table, run_async

app = typer.Typer(add_completion=False, no_args_is_help=True)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file: docs/training.md has the keys.")]
Name = Annotated[str | None, typer.Option(help="Of the run; the file's name otherwise.")]
RunName = Annotated[str, typer.Argument(metavar="NAME", help="The run.")]
Actors = Annotated[bool, typer.Option("--actors", help="Roll out in a Ray actor, apart from training.")]
DEFAULT_HEAD = "http://127.0.0.1:8265"


@app.command()
def run(
    config: ConfigPath,
    name: Name = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest stable checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and its memory.")] = False,
    actors: Actors = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Train here and now. Ctrl-C commits a checkpoint and ends it."""
    resolved = _read(config)
    if dry_run:
        from envfarm_rl.jobs.worker import placement

        print_json(
            {
                "run": name or config.stem,
                "config": resolved.resolved(),
                "placement": placement(resolved, actors=actors),
                "memory_bytes": resolved.memory_estimate(),
            }
        )
        return
    from envfarm_rl.jobs import registry

    place, called = _home(home), name or config.stem
    registry.create(place, called, resolved.resolved(), Job(actors=actors), resume=resume)
    _work(place, called)
    _show(registry.find(place, called), place, json)


@app.command()
def submit(
    config: ConfigPath,
    on: Annotated[str, typer.Option("--on", help="local: a detached process; ray: a job of a cluster.")],
    name: Name = None,
    address: Annotated[str, typer.Option(help="Ray head's Jobs API. RAY_ADDRESS wins, as always.")] = DEFAULT_HEAD,
    actors: Actors = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Send a run off and return. 'envfarm train logs -f' follows it."""
    if on not in (Where.local, Where.ray):
        raise ConfigError(
            f"A run cannot be submitted on '{on}'.", reason=Reason.usage, phase="train", remedy="Use local or ray."
        )
    from envfarm_rl.jobs import registry

    resolved, place, called = _read(config), _home(home), name or config.stem
    job = Job(on=Where(on), actors=actors, address=address if on == Where.ray else "")
    folder = registry.create(place, called, resolved.resolved(), job)
    try:
        _send(place, called, job)
    except BaseException:
        shutil.rmtree(folder)  # cleanup: what could not be sent is no run
        raise
    _show(registry.find(place, called), place, json)


@app.command("ls")
def list_training(home: Home = None, json: Json = False) -> None:
    """Training runs of this home."""
    runs = training_runs(_home(home))
    if json:
        print_json(runs)
        return
    rows = [
        (each.name, each.state, each.job.on, _steps(each), each.status.note if each.status else "") for each in runs
    ]
    print_table(("run", "state", "on", "steps", "note"), rows)


@app.command()
def status(name: RunName, home: Home = None, json: Json = False) -> None:
    """How a run stands. A job of a cluster is asked for there."""
    from envfarm_rl.jobs import registry

    place = _home(home)
    _show(_asked(registry.find(place, name)), place, json)


@app.command()
def logs(
    name: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    home: Home = None,
) -> None:
    """What a submitted run has said."""
    from envfarm_rl.jobs import local, ray_jobs, registry

    place = _home(home)
    job = registry.find(place, name).job
    if job.on is Where.here:
        note(f"The run '{name}' speaks to the terminal that it was started in.")
        return
    texts = (
        ray_jobs.logs(job, follow=follow)
        if job.on is Where.ray
        else local.logs(place / TRAIN / name, job, follow=follow)
    )
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


@app.command()
def cancel(name: RunName, home: Home = None, json: Json = False) -> None:
    """End a run and all it started, with a checkpoint, and wait until it is gone."""
    from envfarm_rl.jobs import local, ray_jobs, registry

    place = _home(home)
    found = registry.find(place, name)
    if found.state.ended:
        note(f"The run '{name}' has ended: {found.state}.")
    else:
        registry.mark_cancelled(place, name)
        note(f"Asking '{name}' to end with a checkpoint.")
        if found.job.on is Where.ray:
            ray_jobs.cancel(found.job)
        elif not local.cancel(found.job):
            note("It did not end in time and was killed: what was done since its last checkpoint is lost.")
    _show(_asked(registry.find(place, name)), place, json)


@app.command()
def resume(name: RunName, home: Home = None, json: Json = False) -> None:
    """Go on with a run from its newest stable checkpoint, where it was sent before."""
    from envfarm_rl.jobs import registry

    place = _home(home)
    found = _asked(registry.find(place, name))
    registry.check_idle(found)
    job = Job(on=found.job.on, actors=found.job.actors, address=found.job.address)
    write_job(place / TRAIN / name, job)
    if job.on is Where.here:
        _work(place, name)
    else:
        try:
            _send(place, name, job)
        except BaseException:
            write_job(place / TRAIN / name, found.job)  # cleanup: it stands as before
            raise
    _show(registry.find(place, name), place, json)


@app.command()
def bringup(
    checkpoint: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the checkpoint goes.")],
    recipe: Annotated[Path | None, typer.Option(help="TOML file; that of the policy we ship otherwise.")] = None,
    work: Annotated[Path | None, typer.Option(help="Corpus and states; below the home otherwise.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that build the corpus, and feed a GPU.")] = 2,
    device: Annotated[str, typer.Option(help="Of torch: cpu, cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of torch; one is best for so small a model.")] = 1,
    home: Home = None,
) -> None:
    """Make a tiny policy: packages of the registry, planted bugs, an hour of training. Begun again, it goes on."""
    _need_torch()
    import torch
    from envfarm_rl.repair.recipe import read_recipe

    from envfarm.wiring.repair.bringup import bring_up

    torch.set_num_threads(threads)
    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # tensor cores are for this
    place = work or _home(home) / "bringup"
    bring_up(read_recipe(recipe), place, checkpoint, workers=workers, device=device, say=note)
    note(f"{checkpoint} holds the policy. What was read and how it learned is beside it.")


@app.command(hidden=True)
def work(name: RunName, home: Home = None) -> None:
    """Work on a run that was submitted: what a job executes."""
    _work(_home(home), name)


def _asked(found: TrainingRun) -> TrainingRun:
    """As Ray knows it, where a job of a cluster has not ended by its own word."""
    if found.job.on is not Where.ray or found.state.ended:
        return found
    from envfarm_rl.jobs import ray_jobs

    return found.model_copy(update={"state": ray_jobs.state(found.job, found.state)})


def _work(home: Path, name: str) -> None:
    """To the end, in this process."""
    _need_torch()
    from envfarm_rl.jobs import registry
    from envfarm_rl.jobs.worker import work
    from envfarm_rl.trainer.config import parse_train_config

    registry.claim(home, name)
    config = parse_train_config(registry.config_of(home, name))
    job = registry.find(home, name).job
    # Ray takes the signals for itself when it starts: it has to be up before they become ours.
    with _cluster() if job.actors else contextlib.nullcontext():
        run_async(work(home / TRAIN / name, config, actors=job.actors, say=note))


def _send(home: Path, name: str, job: Job) -> None:
    command = (sys.executable, "-m", "envfarm.cli.main", "train", "work", name, "--home", str(home.resolve()))
    if job.on is Where.ray:
        from envfarm_rl.jobs import ray_jobs

        ray_jobs.submit(home / TRAIN / name, command, job, job.address)
    else:
        from envfarm_rl.jobs import local

        local.submit(home / TRAIN / name, command, job)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    from envfarm_rl.jobs.ray_actors import cluster

    with cluster():
        yield


def _read(file: Path) -> Any:
    """The configuration, with a path that means the same wherever the run is sent."""
    _need_torch()
    from envfarm_rl.trainer.config import load_train_config

    config = load_train_config(file)
    if not config.policy.path:
        return config
    policy = config.policy.model_copy(update={"path": str(Path(config.policy.path).resolve())})
    return config.model_copy(update={"policy": policy})


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            "Training needs the extra 'rl', which is not installed.",
            reason=Reason.config,
            phase="train",
            remedy="Install envfarm[rl].",
        )


def _home(home: Path | None) -> Path:
    return configuration(None, home).home_path


def _steps(found: TrainingRun) -> str:
    return f"{found.status.step} of {found.status.steps}" if found.status else "-"


def _show(found: TrainingRun, home: Path, json: bool) -> None:
    """A run and its last record on stdout, and its failure, if any, in one sentence on stderr."""
    records, _ = read_metrics(home / TRAIN / found.name)
    last = records[-1] if records else {}
    if json:
        print_json({**found.model_dump(mode="json"), "folder": str(home / TRAIN / found.name), "last": last})
    else:
        rows = [("state", str(found.state)), ("on", _where(found)), ("steps", _steps(found))]
        rows += [(key, f"{last[key]:.3f}") for key in ("reward", "pass_at_1", "accepted_length") if key in last]
        print_table(("run", found.name), rows)
    if found.status and found.status.note:
        note(found.status.note)
    if found.state is State.failed and found.status and found.status.error:
        note(f"error: {found.status.error.message}")
    if found.state is State.lost:
        note(f"Its process is gone without a last word: 'envfarm train resume {found.name}' goes on.")


def _where(found: TrainingRun) -> str:
    job = found.job
    return {Where.ray: f"ray {job.address} {job.submission}", Where.local: f"local, process {job.process.pid}"}.get(
        job.on, "here"
    )
