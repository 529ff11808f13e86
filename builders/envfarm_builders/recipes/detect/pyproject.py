"""pyproject.toml: PEP 621 metadata, PEP 735 groups, and the tables of poetry, pdm, hatch and uv."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from ..findings import Files, Findings, Weight, text_of
from ..groups import is_developer_name, is_test_name, normal
from .classifiers import read_classifiers
from .poetry import read_poetry

FILE = "pyproject.toml"


def load(files: Files) -> dict[str, Any]:
    """The parsed file; empty where it is missing or no TOML (the installation will say so)."""
    text = text_of(files, FILE)
    if text is None:
        return {}
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def read_pyproject(files: Files, findings: Findings) -> None:
    """Add what pyproject.toml says."""
    document = load(files)
    build = _table(document, "build-system")
    findings.build_requires = tuple(_strings(build.get("requires")))
    findings.backend = str(build.get("build-backend") or "")
    project = _table(document, "project")
    tools = _table(document, "tool")
    if build or project or "poetry" in tools or "flit" in tools:
        findings.installable = findings.installable or bool(project.get("name")) or "poetry" in tools or bool(build)
    if project:
        _read_project(project, findings)
    _read_groups(_table(document, "dependency-groups"), findings)
    if poetry := _table(tools, "poetry"):
        read_poetry(poetry, findings)
    for name, requirements in _table(_table(tools, "pdm"), "dev-dependencies").items():
        _want_group(findings, name, _strings(requirements), f"{FILE} tool.pdm.dev-dependencies.{name}")
    findings.want(
        _strings(_table(tools, "uv").get("dev-dependencies")), Weight.developer, f"{FILE} tool.uv.dev-dependencies"
    )
    _read_hatch(_table(_table(tools, "hatch"), "envs"), findings)
    _read_flit(_table(_table(tools, "flit"), "metadata"), findings)


def _read_project(project: Mapping[str, Any], findings: Findings) -> None:
    findings.name = findings.name or str(project.get("name") or "")
    findings.requires_python = findings.requires_python or str(project.get("requires-python") or "")
    read_classifiers(_strings(project.get("classifiers")), findings)
    findings.want(_strings(project.get("dependencies")), Weight.runtime, f"{FILE} project.dependencies")
    for name, requirements in _table(project, "optional-dependencies").items():
        findings.declared[name] = tuple(_strings(requirements))


def _read_groups(groups: Mapping[str, Any], findings: Findings) -> None:
    for name in groups:
        _want_group(findings, name, _expand(groups, name, ()), f"{FILE} dependency-groups.{name}")


def _expand(groups: Mapping[str, Any], name: str, seen: tuple[str, ...]) -> Iterator[str]:
    """The group's requirements with included groups in place; a cycle ends where it closes."""
    key = normal(name)
    if key in seen:
        return
    for entry in next((value for other, value in groups.items() if normal(other) == key), []) or []:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict) and isinstance(entry.get("include-group"), str):
            yield from _expand(groups, entry["include-group"], (*seen, key))


def _want_group(findings: Findings, name: str, requirements: Iterator[str] | list[str], source: str) -> None:
    if is_test_name(name):
        findings.want(requirements, Weight.test, source)
    elif is_developer_name(name):
        findings.want(requirements, Weight.developer, source)


def _read_hatch(environments: Mapping[str, Any], findings: Findings) -> None:
    for name, table in environments.items():
        if not isinstance(table, dict):
            continue
        testing = is_test_name(name) or normal(name) in {"hatch-test", "default", "cov"} or is_developer_name(name)
        for row in table.get("matrix") or []:
            if isinstance(row, dict):
                findings.matrix.update(str(version) for version in row.get("python") or [])
        if not testing:
            continue
        weight = Weight.test if is_test_name(name) or normal(name) == "hatch-test" else Weight.developer
        for key in ("dependencies", "extra-dependencies"):
            findings.want(_strings(table.get(key)), weight, f"{FILE} tool.hatch.envs.{name}.{key}")
        for feature in _strings(table.get("features")):
            findings.extras.setdefault(feature, f"{FILE} tool.hatch.envs.{name}.features")
        if is_test_name(name) or normal(name) == "hatch-test":
            for key, value in _table(table, "env-vars").items():
                findings.env.setdefault(str(key), str(value))


def _read_flit(metadata: Mapping[str, Any], findings: Findings) -> None:
    if not metadata:
        return
    findings.name = findings.name or str(metadata.get("dist-name") or metadata.get("module") or "")
    findings.requires_python = findings.requires_python or str(metadata.get("requires-python") or "")
    read_classifiers(_strings(metadata.get("classifiers")), findings)
    findings.want(_strings(metadata.get("requires")), Weight.runtime, f"{FILE} tool.flit.metadata.requires")
    for name, requirements in _table(metadata, "requires-extra").items():
        findings.declared[name] = tuple(_strings(requirements))


def _table(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
