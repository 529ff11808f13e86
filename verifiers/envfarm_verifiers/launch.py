"""How the in-box runner is started: command line, environment and the job on its standard input."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from envfarm.core.base import Noun
from envfarm.core.environment import ENV_DIR, WORKDIR, Environment, InstallMode, TestCommand

INTERPRETER = f"{ENV_DIR}/bin/python"
SCRATCH = "/tmp"
REPORT_DESCRIPTOR = 3
_MODULES = ("paths", "channel", "watch", "tracer", "reporter", "main")
"""In load order: ``paths`` is asked to hide the tree before the rest is loaded."""

# The interpreter reads everything it trusts from standard input, before anything of the tree is imported: a file in
# the box could be written by the subject, an argument or a variable be read by it.
_BOOTSTRAP = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry]
def boot():
    import json, os, types
    job = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    held = None
    names = []
    for name, source in job.pop("modules"):
        module = sys.modules[name] = types.ModuleType(name)
        names.append(name)
        exec(compile(source, "<" + name + ">", "exec"), module.__dict__)
        if held is None:
            held = module.hide(job["root"])
    for name in names:
        del sys.modules[name]
    return module.main, job, held
start, job, held = boot()
del boot
def run(start, job, held):
    for name in ("start", "job", "held", "run"):
        globals().pop(name)
    start(job, held)
run(start, job, held)
"""


class Launch(Noun):
    """One start of the runner."""

    argv: tuple[str, ...]
    env: dict[str, str]
    stdin: bytes
    key: bytes
    """Authenticates the report's lines; leaves this process over ``stdin`` only."""


@cache
def _sources() -> tuple[tuple[str, str], ...]:
    folder = resources.files("envfarm_verifiers.inbox")
    return tuple(
        (f"envfarm_verifiers.inbox.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES
    )


def launch(
    environment: Environment,
    command: TestCommand,
    *,
    only: Sequence[str] = (),
    trace: Sequence[str] = (),
    trusted: Mapping[str, str] | None = None,
    interpreter: str = INTERPRETER,
    root: str = WORKDIR,
    scratch: str = SCRATCH,
) -> Launch:
    """Put a start together. ``trusted`` (path -> SHA-256) switches on integrity checks and tripwires: graded runs."""
    command = environment.adapted(command)
    env = {name: value for name, value in command.env.items() if not name.startswith(("PYTHON", "PYTEST_"))}
    env |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC", "PYTHONIOENCODING": "utf-8"}
    sources = [f"{root}/src", root]
    named = [_absolute(entry, root) for entry in command.env.get("PYTHONPATH", "").split(":") if entry]
    # A project that was copied into the environment must be tested from the tree, not from the copy.
    front = sources if environment.install_mode in (InstallMode.regular, InstallMode.wheel) else []
    key = secrets.token_bytes(32)
    job = {
        "modules": _sources(),
        "root": root,
        "scratch": scratch,
        "key": key.hex(),
        "descriptor": REPORT_DESCRIPTOR,
        "args": list(command.args),
        "paths": list(command.paths),
        "only": list(only),
        "trace": [_absolute(path, root) for path in trace],
        "trusted": None if trusted is None else dict(trusted),
        "front": named + front,
        "back": [] if front else (sources if environment.install_mode is InstallMode.none else [root]),
    }
    return Launch(
        argv=(interpreter, "-s", "-B", "-c", _BOOTSTRAP),
        env=env,
        stdin=json.dumps(job).encode(),
        key=key,
    )


def _absolute(path: str, root: str) -> str:
    return path if path.startswith("/") else f"{root}/{path.rstrip('/')}"
