"""The pure parts of the pages."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envfarm.api.guard import host_name
from envfarm.core.diff import git_diff
from envfarm.core.errors import Reason
from envfarm.core.ports import StageOutcome
from envfarm.dashboard import formatting
from envfarm.dashboard.diffview import diff_lines
from envfarm.dashboard.links import item_link, link
from envfarm.dashboard.templating import render
from envfarm.store.rows import FunnelRow
from envfarm.wiring.rungs import rungs

LINES = st.lists(st.text(st.characters(exclude_characters="\n\0", codec="utf-8"), max_size=6), max_size=8)


@given(LINES, LINES)
def test_a_patch_keeps_its_lines_and_each_added_or_removed_one_is_known(old: list[str], new: list[str]) -> None:
    before, after = "".join(f"{line}\n" for line in old), "".join(f"{line}\n" for line in new)
    patch = git_diff({"a.py": before.encode()}, {"a.py": after.encode()})
    lines = list(diff_lines(patch))
    assert "".join(f"{text}\n" for _, text in lines) == patch
    kinds = [kind for kind, _ in lines]
    assert kinds.count("add") - kinds.count("del") == len(new) - len(old)
    if patch:
        assert kinds[:3] == ["file", "file", "file"] and kinds.count("file") == 3


@given(st.text())
def test_any_text_is_cut_into_its_lines(text: str) -> None:
    assert "\n".join(line for _, line in diff_lines(text)) == text.removesuffix("\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.44, "0.4 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"),
     (273_600, "3 d 04 h"), (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.875, "87.5 %"),
        (1, "100 %"),
        (0.9999, "> 99.9 %"),
        (0, "0 %"),
        (0.0001, "< 0.1 %"),
        (0.5, "50 %"),
        (None, "–"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert formatting.percent(share) == text


def test_sizes_and_times() -> None:
    assert [formatting.size(n) for n in (0, 1023, 1024, 1 << 20, 3.4 * (1 << 30))] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.4 GiB",
    ]  # fmt: skip
    assert formatting.when(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02 03:04:05 UTC"
    assert formatting.when(0) == "1970-01-01 00:00:00 UTC"


def ended(outcome: StageOutcome, reason: str, n: int) -> FunnelRow:
    return FunnelRow(
        stage="base", source="git", outcome=outcome, reason=reason, n=n, wall_sec=0, cpu_sec=0, bytes_written=0
    )  # fmt: skip


def test_each_ending_of_base_reaches_its_rung_and_an_unknown_one_none() -> None:
    rows = [
        ended(StageOutcome.done, "", 5),
        ended(StageOutcome.rejected, Reason.tests_mostly_fail, 3),
        ended(StageOutcome.rejected, Reason.collect_failed, 2),
        ended(StageOutcome.failed, Reason.install_failed, 4),
        ended(StageOutcome.failed, "a_reason_of_tomorrow", 1),
    ]
    assert [(rung.k, rung.n) for rung in rungs(rows)] == [(10, 15), (8, 15), (5, 15)]
    assert [(rung.k, rung.n, rung.low, rung.high) for rung in rungs([])] == [(0, 0, 0.0, 1.0)] * 3


def test_links_escape_and_leave_out_what_is_not_set() -> None:
    assert link("runs", "a b/c", stage="x&y", repo="", before=None, offset=0) == "/runs/a%20b%2Fc?stage=x%26y&offset=0"
    assert link() == "/"
    assert item_link("r", "replay_gold", "task-1#0") == "/tasks/task-1?run=r"
    assert item_link("r", "mine", "git:/x") == ""


def test_text_that_is_not_unicode_still_makes_a_page() -> None:
    html = render("error.html", title="x", message="name \udcff here", reason="usage")
    html.encode("utf-8")
    assert "name \ufffd here" in html


@pytest.mark.parametrize(
    ("header", "name"),
    [("localhost:80", "localhost"), ("LOCALHOST", "localhost"), ("[::1]:80", "[::1]"), ("[::1", ""), ("", ""),
     ("127.0.0.1.example:80", "127.0.0.1.example")],
)  # fmt: skip
def test_host_headers(header: str, name: str) -> None:
    assert host_name(header) == name
