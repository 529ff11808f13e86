"""tox.ini, ``[tox:tox]`` in setup.cfg, and tox's tables in pyproject.toml."""

from __future__ import annotations

import configparser
import re
from typing import Any

from ..findings import Files, Findings, Weight, text_of
from ..groups import is_test_name
from . import pyproject
from .setup_cfg import lines, parse_ini
from .shell import pip_install, pytest_arguments, pytest_call, want_install, words

_FACTOR = re.compile(r"^!?[\w.{},!-]+:\s+")
_EXTREME = re.compile(r".*(lowest|oldest|min(imum|imal|deps|vers?)?|dev(el)?|main|master|nightly|trunk|edge)")
"""Factors of runs against the oldest or an unreleased version of something: none of them is the usual run."""


def read_tox(files: Files, findings: Findings) -> None:
    """Add dependencies, extras, groups, variables and versions of tox's test environment."""
    tables = _table(pyproject.load(files), "tool", "tox")
    if isinstance(tables.get("legacy_tox_ini"), str):
        _read_ini(files, parse_ini(tables["legacy_tox_ini"]), findings, "pyproject.toml tool.tox")
    elif tables:
        _read_native(files, tables, findings)
    if (text := text_of(files, "tox.ini")) is not None:
        _read_ini(files, parse_ini(text), findings, "tox.ini")
    elif (text := text_of(files, "setup.cfg")) is not None and "[tox:tox]" in text:
        _read_ini(files, parse_ini(text), findings, "setup.cfg tox")


def _read_ini(files: Files, config: configparser.RawConfigParser, findings: Findings, source: str) -> None:
    for section in config.sections():
        if section in {"tox", "tox:tox"}:
            _read_envlist(config[section].get("envlist") or config[section].get("env_list") or "", findings)
        name = section.partition(":")[2]
        if section != "testenv" and not (section.startswith("testenv:") and is_test_name(name)):
            continue
        table = config[section]
        weight = Weight.test if section == "testenv" else Weight.developer
        where = f"{source} [{section}]"
        for row in filter(_is_usual, lines(table.get("deps"))):
            _read_dependency(files, _FACTOR.sub("", row), findings, weight, where)
        for extra in re.split(r"[\s,]+", table.get("extras") or ""):
            if extra and re.fullmatch(r"[\w.-]+", extra):
                findings.extras.setdefault(extra, where)
        for row in lines(table.get("setenv") or table.get("set_env")):
            key, found, value = row.partition("=")
            if found:
                _set_variable(findings, key.strip(), value.strip())
        commands = (table.get("commands") or "").replace("\\\n", " ")
        _read_commands(lines(commands), findings, section == "testenv")


def _is_usual(row: str) -> bool:
    """Whether a row counts in the usual run: it has no condition, or one that does not ask for an extreme factor."""
    condition = _FACTOR.match(row)
    if condition is None:
        return True
    alternatives = re.split(r",(?![^{]*\})", condition[0].rstrip().rstrip(":"))
    return any(
        not any(_EXTREME.fullmatch(factor) for factor in re.split(r"[-{},]", each) if factor[:1] != "!")
        for each in alternatives
    )


def _read_dependency(files: Files, row: str, findings: Findings, weight: Weight, where: str) -> None:
    match = re.match(r"^\{\[([\w:.-]+)\]([\w.-]+)\}$", row)
    if match:
        return
    row = row.replace("{toxinidir}/", "").replace("{tox_root}/", "").replace("{[tox]toxinidir}/", "")
    if "{" in row:
        return
    if row.startswith("-r"):
        want_install(files, findings, pip_install(["-r", row[2:].strip()]), weight, where)
    elif not row.startswith("-"):
        findings.want([row], weight, where)


def _read_commands(rows: list[str], findings: Findings, main: bool) -> None:
    for row in filter(_is_usual, rows):
        arguments = pytest_call(words(_FACTOR.sub("", row).replace("{posargs}", "").replace("{envpython}", "python")))
        if arguments is not None:
            # The first call is the suite, even where it has no arguments; later ones are of special factors.
            if main and not findings.pytest_args:
                findings.pytest_args = pytest_arguments(arguments)
            return


def _read_native(files: Files, tables: dict[str, Any], findings: Findings) -> None:
    environments = {"env_run_base": tables.get("env_run_base") or {}}
    named = tables.get("env")
    if isinstance(named, dict):
        environments |= {f"env.{name}": table for name, table in named.items() if is_test_name(name)}
    _read_envlist(" ".join(str(name) for name in tables.get("env_list") or [] if isinstance(name, str)), findings)
    for name, table in environments.items():
        if not isinstance(table, dict):
            continue
        where = f"pyproject.toml tool.tox.{name}"
        for row in table.get("deps") or []:
            if isinstance(row, str):
                _read_dependency(files, row, findings, Weight.test, where)
        for extra in table.get("extras") or []:
            if isinstance(extra, str):
                findings.extras.setdefault(extra, where)
        for key, value in _table(table, "set_env").items():
            if isinstance(value, str):
                _set_variable(findings, key, value)


def _read_envlist(text: str, findings: Findings) -> None:
    """Versions in ``py311``, ``py3.11``, ``py3{10,11}``, ``py{310,311}``, ``3.11``."""
    for match in re.finditer(r"(?:py|python|(?<![\w.]))3\.?\{([\d,\s]+)\}", text):
        findings.matrix.update(f"3.{int(minor)}" for minor in re.findall(r"\d+", match[1]))
    for match in re.finditer(r"(?:py|python)\{([\w.,\s-]+)\}", text):
        findings.matrix.update(f"3.{int(minor)}" for minor in re.findall(r"(?<!\d)3\.?(\d{1,2})(?!\d)", match[1]))
    for minor in re.findall(r"(?:py|python|(?<![\w.]))3\.?(\d{1,2})(?!\d)", text):
        findings.matrix.add(f"3.{int(minor)}")


def _set_variable(findings: Findings, key: str, value: str) -> None:
    """Only plain values of variables of the project's own: the rest speaks of tox's folders or of coverage."""
    if re.fullmatch(r"[A-Z][A-Z0-9_]*", key) and "{" not in value and not key.startswith(_LEFT_OUT):
        findings.env.setdefault(key, value)


_LEFT_OUT = (
    "PYTHON",
    "PATH",
    "HOME",
    "PIP_",
    "UV_",
    "COVERAGE",
    "COV_",
    "TOX",
    "VIRTUALENV",
    "PYTHONDEVMODE",
    "LD_",
)


def _table(value: Any, *path: str) -> dict[str, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
