"""``envfarm``: finds the command, runs it, and turns failures into one sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from envfarm import __version__
from envfarm.core.errors import ConfigError, EnvfarmError, Reason

# Typer carries its own copy of click since 0.2x: its error base is reached through the class it exports.
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

INTERRUPTED = 130

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("envfarm.cli.demo", "Run the whole chain on real packages and report what was measured."),
    "build": ("envfarm.cli.build", "Mine repositories and build validated tasks."),
    "task": ("envfarm.cli.task", "List, show, validate, grade and export tasks."),
    "rollout": ("envfarm.cli.rollout", "Play tasks with a policy and grade what it hands in."),
    "train": ("envfarm.cli.train", "Train a policy on verdicts, here, detached, or on a Ray cluster."),
    "sandbox": ("envfarm.cli.sandbox", "Start, use and end boxes."),
    "testbed": ("envfarm.cli.testbed", "Start a real Kubernetes here, to try out and test what runs on one."),
    "serve": ("envfarm.cli.serve", "Serve the dashboard."),
    "doctor": ("envfarm.cli.doctor", "Say what this machine can and cannot do, and why."),
}
"""Command -> module with a typer ``app``, and its line in the help. Modules load when their command is run."""


class LazyGroup(TyperGroup):
    """Loads a command's module only when that command runs, so that ``--help`` stays fast."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:
        """A light stand-in for help pages; :meth:`resolve_command` loads the real one."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the module of the command that was asked for."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = get_command(importlib.import_module(COMMANDS[name][0]).app)
            command.name = name
        return name, command, rest


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Repository history -> verifiable tasks -> sandboxes -> verdicts. Data goes to stdout, progress to stderr.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"envfarm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The options common to all commands are given to the command itself."""


def main(argv: list[str] | None = None) -> None:
    """Run and exit: 0 fine, 1 ran but failed, 2 usage or configuration, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """The exit code of a command line."""
    command: Any = get_command(app)
    try:
        result = command.main(args=argv, prog_name="envfarm", standalone_mode=False)
        return _ended(result if isinstance(result, int) else 0)
    except typer.Exit as error:
        return _ended(error.exit_code)
    except _ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _ended(INTERRUPTED)
    except EnvfarmError as error:
        typer.echo(f"error: {error}", err=True)
        if error.detail and os.environ.get("ENVFARM_DEBUG"):
            typer.echo(error.detail, err=True)
        return 2 if isinstance(error, ConfigError) or error.reason is Reason.usage else 1
    except BrokenPipeError:
        # the reader of our output has left: stop quietly, as every filter does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _ended(code: int) -> int:
    # Typer turns Ctrl-C into this exit code by itself, so the sentence is said here
    if code == INTERRUPTED:
        typer.echo("\nInterrupted: what was finished is kept; go on with --resume where the command has it.", err=True)
    return code


if __name__ == "__main__":
    main()
