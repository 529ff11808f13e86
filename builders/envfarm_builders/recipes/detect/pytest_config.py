"""pytest's own configuration: the plug-ins its options need, its test paths."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ..findings import Files, Findings, Weight, text_of
from ..names import FIXTURES, MARKS, OPTIONS, SETTINGS
from . import pyproject
from .setup_cfg import parse_ini

_INI_FILES = (("pytest.ini", "pytest"), (".pytest.ini", "pytest"), ("tox.ini", "pytest"), ("setup.cfg", "tool:pytest"))
_USES_FIXTURES = re.compile(rb"(?:def\s+test\w*|fixture(?:\([^\n]*\))?\n\s*(?:async\s+)?def\s+\w+)\s*\(([^)]*)\)")
_MARK = re.compile(rb"pytest\.mark\.(\w+)")


def read_pytest_config(files: Files, findings: Findings) -> None:
    """Add the plug-ins that options, ini settings, marks and fixtures need; note configured test paths."""
    for source, options in _configurations(files):
        _read_options(files, options, findings, source)
        break
    _read_usage(files, findings)


def configured_options(files: Files) -> list[str]:
    """The words of ``addopts``, as pytest will read them."""
    for _, options in _configurations(files):
        return _words(options.get("addopts", ""))
    return []


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return text.split()


def _configurations(files: Files) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for name, section in _INI_FILES[:2]:
        if (text := text_of(files, name)) is not None:
            config = parse_ini(text)
            found.append((name, _flat(dict(config[section])) if config.has_section(section) else {}))
    table: Any = pyproject.load(files).get("tool", {}).get("pytest", {})
    if isinstance(table, dict) and table:
        options = table.get("ini_options") or table
        found.append(("pyproject.toml tool.pytest", _flat(options)))
    for name, section in _INI_FILES[2:]:
        if (text := text_of(files, name)) is not None and (config := parse_ini(text)).has_section(section):
            found.append((name, _flat(dict(config[section]))))
    return found


def _flat(options: dict[str, Any]) -> dict[str, str]:
    return {
        str(key): "\n".join(str(item) for item in value) if isinstance(value, list) else str(value)
        for key, value in options.items()
    }


def _read_options(files: Files, options: dict[str, str], findings: Findings, source: str) -> None:
    for key in options:
        for pattern, plugin in SETTINGS.items():
            if re.fullmatch(pattern, key):
                findings.want([plugin], Weight.test, f"{source} {key}")
    words = _words(options.get("addopts", ""))
    for position, word in enumerate(words):
        option = word.split("=")[0]
        for pattern, plugin in OPTIONS.items():
            if re.fullmatch(pattern, option):
                findings.want([plugin], Weight.test, f"{source} addopts {option}")
        if option == "-p" and position + 1 < len(words) and (plugin := words[position + 1]) in OPTIONS:
            findings.want([OPTIONS[plugin]], Weight.test, f"{source} addopts -p {plugin}")
    for row in options.get("required_plugins", "").split():
        findings.want([row], Weight.test, f"{source} required_plugins")
    paths = tuple(path for path in options.get("testpaths", "").split() if not re.search(r"[*?\[]", path))
    present = tuple(path for path in paths if any(f == path or f.startswith(path.rstrip("/") + "/") for f in files))
    if present and len(present) == len(paths):
        findings.test_paths = present


def _read_usage(files: Files, findings: Findings) -> None:
    """One guess for each plug-in, with the first place that needs it."""
    own_fixtures = _own_fixtures(files)
    needed: dict[str, str] = {}
    for path, data in sorted(files.items()):
        if not path.endswith(".py") or "test" not in path.lower():
            continue
        arguments = {word for match in _USES_FIXTURES.finditer(data) for word in re.findall(rb"\w+", match[1])}
        for fixture in sorted(word.decode("ascii", "replace") for word in arguments):
            if fixture in FIXTURES and fixture not in own_fixtures:
                needed.setdefault(FIXTURES[fixture], f"fixture {fixture} in {path}")
        for mark in sorted({match[1].decode() for match in _MARK.finditer(data)}):
            if mark in MARKS:
                needed.setdefault(MARKS[mark], f"mark {mark} in {path}")
    for plugin, source in needed.items():
        findings.want([plugin], Weight.guessed, source)


def _own_fixtures(files: Files) -> set[str]:
    """Names defined as functions somewhere in the tree's tests: fixtures of the project's own."""
    found: set[str] = set()
    for path, data in files.items():
        if path.endswith(".py") and b"fixture" in data:
            found.update(name.decode() for name in re.findall(rb"def\s+(\w+)\s*\(", data))
            found.update(name.decode() for name in re.findall(rb"fixture\([^)]*name\s*=\s*[\"'](\w+)", data))
    return found
