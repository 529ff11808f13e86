"""Interpreters present on this machine, and which of them suits a tree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from envfarm.core.errors import BuilderError, Reason

from .findings import Findings

OLDEST = Version("3.7")
"""Reporters and tracers of ours run on nothing older."""
RELEASED = {
    "3.7": datetime(2018, 6, 27, tzinfo=UTC), "3.8": datetime(2019, 10, 14, tzinfo=UTC),
    "3.9": datetime(2020, 10, 5, tzinfo=UTC), "3.10": datetime(2021, 10, 4, tzinfo=UTC),
    "3.11": datetime(2022, 10, 24, tzinfo=UTC), "3.12": datetime(2023, 10, 2, tzinfo=UTC),
    "3.13": datetime(2024, 10, 7, tzinfo=UTC), "3.14": datetime(2025, 10, 7, tzinfo=UTC),
}  # fmt: skip
"""When each minor version came out: a tree that is older was never tested with it."""

_PROBE = (
    "import json,sys,sysconfig;print(json.dumps([sys.version.split()[0], sys.base_prefix, sys.implementation.name, \
bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A CPython on this machine."""

    version: str
    """Full: ``3.11.7``."""
    prefix: Path
    """Its base prefix: what a toolchain is made from."""

    @property
    def minor(self) -> str:
        """``3.11``."""
        return ".".join(self.version.split(".")[:2])


def discover(environ: dict[str, str] | None = None) -> tuple[Interpreter, ...]:
    """CPythons found as ``sys.executable``, on PATH, in pyenv's folder and by ``uv python list``; newest first, one for
    each minor version (the highest patch)."""
    environ = dict(os.environ) if environ is None else environ
    found: dict[str, Interpreter] = {}
    seen: set[Path] = set()
    for candidate in _candidates(environ):
        real = candidate.resolve()
        if real in seen:
            continue
        seen.add(real)
        interpreter = _probe(real)
        if interpreter is None or Version(interpreter.version) < OLDEST:
            continue
        best = found.get(interpreter.minor)
        if best is None or Version(best.version) < Version(interpreter.version):
            found[interpreter.minor] = interpreter
    return tuple(sorted(found.values(), key=lambda each: Version(each.version), reverse=True))


def _candidates(environ: dict[str, str]) -> Iterable[Path]:
    yield Path(sys.executable)
    root = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME", "/nonexistent")) / ".pyenv")
    yield from sorted(root.glob("versions/3.*/bin/python3"))
    for folder in filter(None, environ.get("PATH", "").split(os.pathsep)):
        if Path(folder) == root / "shims":
            continue
        path = Path(folder)
        yield from sorted(p for p in path.glob("python3*") if re.fullmatch(r"python3(\.\d+)?", p.name))
    managed = Path(environ.get("UV_PYTHON_INSTALL_DIR") or Path(environ.get("HOME", "/")) / ".local/share/uv/python")
    yield from sorted(managed.glob("cpython-3.*/bin/python3"))


def _probe(executable: Path) -> Interpreter | None:
    """Ask an interpreter what it is; None where it does not run, is no CPython or has no GIL."""
    try:
        ran = subprocess.run(
            [executable, "-I", "-c", _PROBE], capture_output=True, timeout=20, check=True, stdin=subprocess.DEVNULL
        )
        version, prefix, implementation, free_threaded = json.loads(ran.stdout)
    # Boundary: a broken or foreign executable on PATH is simply no interpreter.
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if implementation != "cpython" or free_threaded or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return None
    return Interpreter(version, Path(prefix))


def choose(
    interpreters: Sequence[Interpreter], findings: Findings, released_at: datetime | None
) -> tuple[Interpreter, str]:
    """The newest interpreter that the tree allows, and why: it satisfies ``requires-python``, had come out when the
    tree did, and is not newer than what the classifiers and the CI matrix name. The last two are wishes: where nothing
    satisfies them, the nearest newer one is taken. Raises ``BuilderError`` (no_toolchain) when ``requires-python`` has
    no answer here."""
    allowed = [each for each in interpreters if _satisfies(each, findings.requires_python)]
    if not allowed:
        present = ", ".join(each.minor for each in interpreters) or "none"
        raise BuilderError(
            f"No interpreter here satisfies requires-python '{findings.requires_python}' (present: {present}).",
            reason=Reason.no_toolchain,
            phase="plan",
            remedy="Install one and put it on PATH, or in pyenv's versions folder.",
        )
    allowed.sort(key=lambda each: Version(each.version))
    known = [v for v in allowed if not released_at or RELEASED.get(v.minor, released_at) <= released_at]
    named = {Version(minor) for minor in findings.classifiers | findings.matrix if re.fullmatch(r"3\.\d+", minor)}
    ceiling = max(named) if named else None
    tested = [each for each in known if ceiling is None or Version(each.minor) <= ceiling]
    why = f"requires-python '{findings.requires_python or 'any'}'"
    if tested:
        return tested[-1], f"{why}, named up to {ceiling or 'nothing'}, out by the tree's date"
    return (known or allowed)[0], f"{why}; older than any interpreter here, nearest taken"


def _satisfies(interpreter: Interpreter, requires: str) -> bool:
    if not requires:
        return True
    try:
        return SpecifierSet(requires.replace(" ", "")).contains(interpreter.version, prereleases=True)
    except InvalidSpecifier:
        return True
