"""``envfarm testbed``: a real Kubernetes on this machine, for trying out and testing what runs on a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from envfarm.core.errors import ConfigError, Reason
from envfarm.testbed import bed as beds
from envfarm.testbed import programs
from envfarm.testbed.programs import Shape

from .common import Json, note, print_json

app = typer.Typer(no_args_is_help=True, help="A real Kubernetes on this machine, in a network of its own.")

Folder = Annotated[
    Path, typer.Option("--folder", envvar="ENVFARM_TESTBED", help="Where the bed keeps its state and kubeconfigs.")
]
_FOLDER = Path("/run/envfarm-testbed") if os.geteuid() == 0 else Path.home() / ".cache/envfarm/testbed/bed"


@app.command()
def build(json: Json = False) -> None:
    """Build the programs from their go.mod files; what is built already is kept."""
    took = programs.build(note)
    if json:
        print_json({"folder": programs.folder(), "seconds": took})
    else:
        typer.echo(programs.folder())


@app.command()
def up(
    shape: Annotated[
        Shape, typer.Option("--shape", help="fleet: simulated nodes; node: one real kubelet.")
    ] = Shape.fleet,
    folder: Folder = _FOLDER,
    json: Json = False,
) -> None:
    """Start a bed that stays until 'envfarm testbed down'."""
    bed = beds.up(shape, folder=folder, detached=True, say=note)
    if json:
        print_json({"folder": folder, "shape": shape, "kubeconfig": bed.kubeconfig(), "seconds": bed.took})
        return
    note("Ready: " + ", ".join(f"{name} {sec:g} s" for name, sec in bed.took.items()))
    note("Run in its network:  envfarm testbed exec -- COMMAND")
    typer.echo(bed.kubeconfig())


@app.command()
def down(folder: Folder = _FOLDER) -> None:
    """End the bed with all that runs in it. Without one nothing is done."""
    bed = beds.read(folder)
    if bed is None:
        note(f"No bed in {folder}.")
        return
    bed.down()


@app.command()
def status(folder: Folder = _FOLDER, json: Json = False) -> int:
    """Say what runs; exit status 1 where no bed does."""
    bed = beds.read(folder)
    running = bed.order("status") if bed is not None and bed.alive else {}
    state = {
        "not_built": [name for module in programs.missing() for name in module.packages],
        "folder": folder,
        "shape": bed.shape if bed else None,
        "running": running,
        "unable": beds.unable(),
    }
    if json:
        print_json(state)
    else:
        lacking = ", ".join(state["not_built"])
        typer.echo(f"programs in {programs.folder()}: {f'not built: {lacking}' if lacking else 'all built'}")
        typer.echo(f"bed: {bed.shape if bed else 'none'} in {folder}: {', '.join(running) or 'nothing runs'}")
        if state["unable"]:
            typer.echo(state["unable"])
    return 0 if running else 1


@app.command(name="exec", context_settings={"ignore_unknown_options": True})
def exec_(
    argv: Annotated[list[str], typer.Argument(help="Command; put -- before it.", metavar="COMMAND...")],
    folder: Folder = _FOLDER,
    user: Annotated[str, typer.Option("--user", help="Whose kubeconfig it gets.")] = "admin",
) -> None:
    """Run a command in the bed's network, with its kubeconfig."""
    bed = beds.read(folder)
    if bed is None or not bed.alive:
        raise ConfigError(
            f"No bed runs in {folder}.", reason=Reason.usage, phase="testbed exec",
            remedy="Start one with 'envfarm testbed up'."
        )  # fmt: skip
    bed.enter()
    path = f"{programs.folder()}:{os.environ.get('PATH', os.defpath)}"
    os.execvpe(argv[0], argv, {**os.environ, "PATH": path, "KUBECONFIG": str(bed.kubeconfig(user))})
