"""The report of a demo run: self-contained, escaped, and whole when parts are missing."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest

from envfarm.dashboard.report import render_report

HOSTILE = "evil<script>alert(1)</script>"
REPORT: dict[str, Any] = {
    "run": "demo",
    "wall_sec": 512.3,
    "packages": {
        "tried": 12,
        "mined": 11,
        "failed": [{"name": HOSTILE, "stage": "base", "reason": "no_toolchain", "detail": HOSTILE}],
    },
    "environments": {"tried": 12, "installs": 11, "collects": 10, "passes": 9, "intervals": {"passes": [0.46, 0.92]}},
    "tasks": {
        "candidates": 240,
        "after_filter": 105,
        "rejected": {"filter": {"no_tests": 80, HOSTILE: 40}, "validate": {"no_f2p": 12}},
        "release_valid": 20,
        "commit_valid": 1,
        "synth_valid": 60,
        "yield": 0.2,
        "yield_interval": [0.13, 0.28],
        "by_repo": {HOSTILE: {"release": 4, "synth": 12}, "click": {"synth": 3}},
        "by_operator": {"flip_comparison": 31},
    },
    "replay": {
        "n": 81, "gold_pass_rate": 1.0, "empty_n": 81, "empty_pass_rate": 0.0, "errors": 0,
        "passes": [{"pass": 1, "gold": 81, "wall_sec": 40.25}, {"pass": 2, "gold": 81, "note": HOSTILE}],
    },
    "policies": {
        "oracle": {"launched": 82, "n": 81, "masked": 1, "solve_rate": 1.0, "interval": [0.955, 1.0]},
        "noop": {"n": 81, "solve_rate": 0.0},
        "unplayed": {"n": 0, "solve_rate": None, "interval": [0, 1]},
        "_verdict_cache": {"hits": 3, "of": 200},
    },
    "stages": [
        {"stage": "mine", "in": 12, "done": 11, "rejected": 0, "failed": 1, "wall_sec": 40.0, "bytes": 0},
        {"stage": "base", "in": 12, "done": 9, "rejected": 2, "failed": 1},
    ],
    "rl": {"steps": 200, "reward_rate": 0.425, "losses": [0.5, 0.25], "stable": True},
    "mtp": [{"k": 1, "accepted_rate": 0.5}, {"k": 2, "accepted_rate": None}],
}  # fmt: skip


def test_it_says_what_was_measured() -> None:
    html = render_report(REPORT)
    for text in ("8 min 32 s", "46–92 %", "filter: no_tests", "flip_comparison", "oracle: 1 masked", "96–100 %",
                 "42.5 %", "12 tried", "of 105 kept by the filter"):  # fmt: skip
        assert text in html, text
    assert ">21<small>" in html, "release and commit tasks together"
    assert "_verdict_cache" not in html and "unplayed" not in html


def test_it_refers_to_nothing_outside_itself() -> None:
    html = render_report(REPORT)
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html)
    assert "url(" not in html and "@import" not in html and "http" not in html.replace("http-equiv", "")


def test_what_strangers_named_is_escaped() -> None:
    html = render_report(REPORT)
    assert "<script>" not in html and html.count("evil&lt;script&gt;") >= 5


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict):
        return [prefix]
    return [prefix, *(path for key, item in value.items() for path in paths(item, (*prefix, key)))]


@pytest.mark.parametrize("path", [path for path in paths(REPORT) if path], ids=lambda path: ".".join(map(str, path)))
def test_any_part_may_be_missing_or_none(path: tuple[Any, ...]) -> None:
    for drop in (True, False):
        report = deepcopy(REPORT)
        *above, last = path
        holder = report
        for key in above:
            holder = holder[key]
        if drop:
            del holder[last]
        elif len(path) == 1:
            holder[last] = None
        assert render_report(report).rstrip().endswith("</html>")


def test_an_empty_report_is_a_page() -> None:
    assert "<h1>envfarm demo</h1>" in render_report({})
