"""The report of a demo run: one HTML file with no reference to anything outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from envfarm.store.rows import Rate
from envfarm.wiring.rungs import COLLECTS, INSTALLS, PASSES, rate

from .formatting import percent
from .templating import STATIC, render

_KNOWN = ("title", "run", "wall_sec", "packages", "environments", "tasks", "replay", "policies", "stages")


Number = int | float


@dataclass(frozen=True)
class Table:
    """Columns as (name, whether every cell is a number), and rows of cells."""

    columns: list[tuple[str, bool]]
    rows: list[list[object]]


def render_report(report: Mapping[str, Any]) -> str:
    """The page. A section that is missing is left out; one that is not known here is shown as it is."""
    return render(
        "report.html",
        css=Markup(
            (STATIC / "style.css").read_text(encoding="utf-8")
        ),  # our own file: escaping would break its selectors
        title=report.get("title") or "envfarm demo",
        wall_sec=report.get("wall_sec"),
        packages=report.get("packages") or {},
        failed=(report.get("packages") or {}).get("failed") or [],
        rungs=_rungs(report.get("environments") or {}),
        tasks=report.get("tasks") or {},
        rejected=_rejected((report.get("tasks") or {}).get("rejected") or {}),
        operators=_ranked((report.get("tasks") or {}).get("by_operator") or {}),
        by_repo=_by_repo((report.get("tasks") or {}).get("by_repo") or {}),
        replay=report.get("replay") or {},
        passes=_records((report.get("replay") or {}).get("passes") or [], "pass"),
        policies=_policies(report.get("policies") or {}),
        stages=[_stage(line) for line in report.get("stages") or []],
        more={key: _tables(value) for key, value in report.items() if key not in _KNOWN},
    )


def _rungs(environments: Mapping[str, Any]) -> list[Rate]:
    tried = environments.get("tried")
    if not tried:
        return []
    given = environments.get("intervals") or {}
    pairs = ((INSTALLS, "installs"), (COLLECTS, "collects"), (PASSES, "passes"))
    return [_rate(label, environments[key], tried, given.get(key)) for label, key in pairs if key in environments]


def _policies(policies: Mapping[str, Mapping[str, Any]]) -> list[tuple[Rate, str]]:
    """Solve rates, and beside each what was not scored. Names that begin with ``_`` are remarks, not policies."""
    found: list[tuple[Rate, str]] = []
    for name, values in policies.items():
        n, share = values.get("n"), values.get("solve_rate")
        if n and share is not None and not name.startswith("_"):
            aside = [f"{values[key]} {key}" for key in ("masked", "unscorable", "tampered") if values.get(key)]
            found.append((_rate(name, round(share * n), n, values.get("interval")), ", ".join(aside)))
    return found


def _rejected(rejected: Mapping[str, Any]) -> list[tuple[str, int, None]]:
    """Counts by reason, or by stage and reason: then stages keep their order and are named in the label."""
    if any(isinstance(value, Mapping) for value in rejected.values()):
        return [
            (f"{stage}: {reason}", n, None) for stage, reasons in rejected.items() for reason, n, _ in _ranked(reasons)
        ]
    return _ranked(rejected)


def _rate(label: str, k: int, n: int, interval: Sequence[float] | None) -> Rate:
    found = rate(label, k, n)
    return found.model_copy(update={"low": interval[0], "high": interval[1]}) if interval else found


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int, None]]:
    return [(name, n, None) for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _by_repo(by_repo: Mapping[str, Any]) -> Table:
    """Counts for each repository: a number, or numbers by kind."""
    rows = [
        {"repository": repo, **(dict(value) if isinstance(value, Mapping) else {"valid tasks": value})}
        for repo, value in by_repo.items()
    ]
    return _records(rows, "repository")


def _stage(line: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("in", "done", "rejected", "failed", "wall_sec", "cpu_sec", "bytes")
    return {"stage": line.get("stage", ""), **{key: line.get(key) or 0 for key in numbers}}


def _records(rows: Sequence[Any], name: str) -> Table:
    """A table of mappings; a plain value is one in column ``name``."""
    mappings = [row if isinstance(row, Mapping) else {name: row} for row in rows]
    columns = list(dict.fromkeys(key for row in mappings for key in row))
    cells = [[_cell(column, row.get(column)) for column in columns] for row in mappings]
    return Table(
        [(column, all(isinstance(row[i], Number) for row in cells)) for i, column in enumerate(columns)], cells
    )


def _tables(value: Any) -> Table:
    """Any JSON value as one table: a list as its records, a mapping as its items."""
    if isinstance(value, Mapping):
        if value and all(isinstance(item, Mapping) for item in value.values()):
            return _records([{"": key, **item} for key, item in value.items()], "value")
        return _records([{"": key, "value": _cell(key, item)} for key, item in value.items()], "value")
    return _records(value if isinstance(value, list | tuple) else [value], "value")


def _cell(column: str, value: Any) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and column.endswith(("rate", "share")):
        return percent(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(_cell("", item)) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(str(key), item)}" for key, item in value.items())
    return "" if value is None else value
