"""tool.poetry: its own dependency language, turned into PEP 508."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from ..findings import Findings, Weight
from ..groups import is_developer_name, is_test_name
from .classifiers import read_classifiers

FILE = "pyproject.toml"


def read_poetry(poetry: Mapping[str, Any], findings: Findings) -> None:
    """Add what ``tool.poetry`` says; PEP 621 fields that were already read stand."""
    findings.name = findings.name or str(poetry.get("name") or "")
    read_classifiers([item for item in poetry.get("classifiers") or [] if isinstance(item, str)], findings)
    if poetry.get("package-mode") is False:
        findings.installable = False
    dependencies = poetry.get("dependencies") or {}
    if isinstance(dependencies, dict):
        python = dependencies.get("python")
        if isinstance(python, str) and not findings.requires_python:
            findings.requires_python = specifier(python)
        findings.want(_requirements(dependencies, optional=False), Weight.runtime, f"{FILE} tool.poetry.dependencies")
        optional = {re.split(r"[^\w.-]", line)[0].lower(): line for line in _requirements(dependencies, True)}
        for name, members in (poetry.get("extras") or {}).items():
            if isinstance(members, list):
                lines = (optional.get(str(member).lower(), str(member)) for member in members)
                findings.declared[name] = tuple(lines)
    development = poetry.get("dev-dependencies")
    if isinstance(development, dict):
        findings.want(_requirements(development), Weight.developer, f"{FILE} tool.poetry.dev-dependencies")
    for name, group in (poetry.get("group") or {}).items():
        if not isinstance(group, dict) or not isinstance(group.get("dependencies"), dict):
            continue
        if is_test_name(name) or is_developer_name(name):
            weight = Weight.test if is_test_name(name) else Weight.developer
            findings.want(_requirements(group["dependencies"]), weight, f"{FILE} tool.poetry.group.{name}")


def _requirements(table: Mapping[str, Any], optional: bool | None = None) -> list[str]:
    """PEP 508 lines of a dependency table; ``optional`` picks those with that flag."""
    lines: list[str] = []
    for name, value in table.items():
        if name.lower() == "python":
            continue
        for entry in value if isinstance(value, list) else [value]:
            options: dict[str, Any] = entry if isinstance(entry, dict) else {"version": entry}
            if optional is not None and bool(options.get("optional")) is not optional:
                continue
            if "path" in options:
                continue
            extras = options.get("extras") or []
            line = name + (f"[{','.join(extras)}]" if extras else "")
            version = options.get("version")
            line += specifier(version) if isinstance(version, str) else ""
            markers = [f"({options['markers']})"] if options.get("markers") else []
            if isinstance(options.get("python"), str):
                markers += [_python_marker(options["python"])]
            lines.append(line + (f" ; {' and '.join(filter(None, markers))}" if any(markers) else ""))
    return lines


def specifier(text: str) -> str:
    """PEP 440 specifier of a poetry constraint: ``^1.2`` -> ``>=1.2,<2``. Of alternatives (``||``) the first is taken;
    what is no constraint is left out."""
    first = re.split(r"\s*\|\|?\s*", text.strip())[0]
    parts: list[str] = []
    for part in re.split(r"\s*,\s*|\s+(?=[<>=!~^\d*])", first):
        parts += _part(part.strip().replace(" ", ""))
    return ",".join(part for part in parts if _valid(part))


def _valid(part: str) -> bool:
    try:
        SpecifierSet(part)
    except InvalidSpecifier:
        return False
    return True


def _part(part: str) -> list[str]:
    if part in {"", "*"}:
        return []
    if part[0] in "<>!" or part.startswith(("==", "~=")):
        return [part]
    number = part.lstrip("^~=v")
    if "*" in number:
        return [f"=={number}"]
    try:
        release = list(Version(number).release)
    except InvalidVersion:
        return []
    if part.startswith("^"):
        index = next((i for i, digit in enumerate(release) if digit), len(release) - 1)
        return [f">={number}", f"<{_bump(release, index)}"]
    if part.startswith("~"):
        return [f">={number}", f"<{_bump(release, min(1, len(release) - 1))}"]
    return [f"=={number}"]


def _bump(release: list[int], index: int) -> str:
    return ".".join(str(digit) for digit in [*release[:index], release[index] + 1])


def _python_marker(constraint: str) -> str:
    terms = re.findall(r"(<=|>=|<|>|==|!=)\s*(\d+\.\d+)", ",".join(_part_or_self(constraint)))
    return " and ".join(f"python_version {operator} '{version}'" for operator, version in terms)


def _part_or_self(constraint: str) -> list[str]:
    return specifier(constraint).split(",")
