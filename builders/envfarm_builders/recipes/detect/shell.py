"""Command lines that install or test, as CI files, tox and nox write them."""

from __future__ import annotations

import posixpath
import re
import shlex
from dataclasses import dataclass, field

from ..findings import Files, Findings, Weight
from ..groups import is_developer_name, is_test_name
from .requirements import read_lines

_VALUED = {
    "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "-c", "--constraint", "-t", "--target", "--python",
    "-p",
}  # fmt: skip
_UNSAFE = re.compile(r"[$`{}<>|&;*]")
_PYTEST_VALUED = {
    "-m", "-k", "-p", "-n", "-c", "-o", "-W", "-r", "--ignore", "--ignore-glob", "--deselect", "--import-mode", "--cov",
    "--cov-report", "--cov-config", "--junitxml", "--junit-xml", "--durations", "--maxfail", "--tb", "--timeout",
    "--rootdir", "--basetemp", "--override-ini", "--numprocesses", "--dist",
}  # fmt: skip
_KEPT = frozenset(["--ignore", "--ignore-glob", "--deselect", "--import-mode", "-m", "-k"])
"""pytest options that choose what is run or how it is imported; the rest is reporting."""


@dataclass
class PipInstall:
    """What one ``pip install`` line asks for."""

    requirements: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def words(line: str) -> list[str]:
    """The line's words; empty where it is no simple command line."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def pip_install(arguments: list[str]) -> PipInstall:
    """Read the arguments after ``pip install`` (or of nox's ``session.install``)."""
    found = PipInstall()
    position = 0
    while position < len(arguments):
        word = arguments[position]
        value = arguments[position + 1] if position + 1 < len(arguments) else ""
        position += 1
        if word in {"-r", "--requirement", "--requirements", "-e", "--editable", "--group", "--extra", *_VALUED}:
            position += 1
        if word in {"-r", "--requirement", "--requirements"}:
            found.files.append(value)
        elif word.startswith("-r") and len(word) > 2 and not word.startswith("--"):
            found.files.append(word[2:])
        elif word.startswith("--requirement="):
            found.files.append(word.partition("=")[2])
        elif word in {"-e", "--editable"}:
            found.extras += own_extras(value)
        elif word in {"--group", "--extra"}:
            (found.groups if word == "--group" else found.extras).append(value)
        elif word.startswith("-") or _UNSAFE.search(re.sub(r"[<>]=?", "", word)):
            continue
        elif word.startswith("."):
            found.extras += own_extras(word)
        elif "/" not in word and word not in {"pip", "setuptools", "wheel"}:
            found.requirements.append(word)
    return found


def own_extras(target: str) -> list[str]:
    """``.[a,b]`` -> a, b."""
    match = re.match(r"^\.[/\w]*\[([\w,\s.-]+)\]$", target)
    return [part.strip() for part in match[1].split(",")] if match else []


def want_install(files: Files, findings: Findings, install: PipInstall, weight: Weight, source: str) -> None:
    """Add what a ``pip install`` line asks for. Extras and groups count when they are for testing or development."""
    findings.want(install.requirements, weight, source)
    for path in install.files:
        clean = posixpath.normpath(path)
        if clean in files and not re.search(r"docs?[-_./]|lint|mypy|constraint", clean):
            findings.want(read_lines(files, clean), weight, f"{source} -r {clean}")
    for extra in install.extras:
        if is_test_name(extra) or is_developer_name(extra) or weight >= Weight.test:
            findings.extras.setdefault(extra, source)


def pytest_arguments(arguments: list[str]) -> tuple[str, ...]:
    """The selecting options of a pytest line's arguments (after ``pytest``); reporting options and paths left out."""
    kept: list[str] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        option, _, inline = word.partition("=")
        position += 1
        value = inline
        if option in _PYTEST_VALUED and not inline and position < len(arguments):
            value = arguments[position]
            position += 1
        if option in _KEPT and value and not re.search(r"[${}`\[\]]", value):
            kept += [option, value] if option in {"-m", "-k"} else [f"{option}={value}"]
    return tuple(kept)


def pytest_call(line: list[str]) -> list[str] | None:
    """The arguments after ``pytest`` in ``pytest ...``, ``python -m pytest ...``, ``coverage run -m pytest ...``."""
    for index, word in enumerate(line):
        if word in {"pytest", "py.test"} and (index == 0 or line[index - 1] == "-m" or line[index - 1] in _RUNNERS):
            return line[index + 1 :]
    return None


_RUNNERS = frozenset({"run", "--", "exec", "xvfb-run", "python"})
