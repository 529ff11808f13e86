"""Pages of repair: every valid edit as a real shell and a real sed carry it out."""

from __future__ import annotations

import argparse
import json.decoder
import subprocess
import textwrap
from pathlib import Path

import pytest
from envfarm_rl.repair.problem import edit_at
from envfarm_rl.repair.protocol import FINISH, REVERT, State, calls, make, run_test

from envfarm.wiring.repair.pages import fits, function_units, problem, valid_edits

ODD = '''
import re


class Odd:
    def strange(self, x, sep=", ", flag=True):
        """Documented
        at length."""
        # a comment
        if x == 'it''s' and x != "a,b" or x[0] == "\\\\" and 11 == 1:

            return x, sep
        elif x.count("^$.*[]") > 1 and not flag:  # $HOME `true` "quoted"
            return (x + 1) / 2 - 1 if x else 1 + 11 + 1
        return len(x) == 111 or sep is not None
'''


@pytest.mark.parametrize("source", [ODD, Path(json.decoder.__file__).read_text(), Path(argparse.__file__).read_text()])
def test_every_valid_edit_is_what_sed_makes_of_the_file(source: str, tmp_path: Path) -> None:
    done = 0
    name = "a b/it's.py"
    target = tmp_path / name
    target.parent.mkdir()
    for unit in function_units(source):
        edits = valid_edits(unit) if fits(unit) else []
        if not edits or done > 120:
            continue
        page = problem(unit, edits, name)
        for edit, answer in zip(edits, page.edits, strict=True):
            target.write_text(source)
            subprocess.run(["bash", "-c", page.command(answer)], cwd=tmp_path, check=True)
            assert target.read_text() == edit.source_after, page.command(answer)
            done += 1
    assert done >= 20


def test_a_page_shows_numbered_code_only() -> None:
    (unit,) = [unit for unit in function_units(ODD) if unit.qualname == "Odd.strange"]
    page = problem(unit, valid_edits(unit), "odd.py")
    shown = dict(page.lines)
    assert page.base == 5
    assert shown[1] == 'def strange(self, x, sep=", ", flag=True):'
    assert all(ODD.splitlines()[page.base + number - 1] == "    " + text for number, text in page.lines)
    assert not any("Documented" in text or text.strip().startswith("#") or not text.strip() for text in shown.values())
    assert page.listing.splitlines()[0].endswith(" #1")


def test_a_match_that_sed_would_not_find_is_widened_to_the_left() -> None:
    edit = edit_at(3, "x = aaa", 5, "aa", "b")
    assert (edit.old, edit.new, edit.occurrence) == ("aaa", "ab", 1)
    assert edit_at(1, "1 + 1 + 11", 8, "1", "2").occurrence == 3


def test_what_may_be_done_when() -> None:
    source = textwrap.dedent(ODD)
    (unit,) = [unit for unit in function_units(source) if unit.qualname == "Odd.strange"]
    page = problem(unit, valid_edits(unit), "odd.py", shown_test="tests/test_odd.py::test_it")
    edits = [make(page, edit) for edit in page.edits]
    start = State(runs=2)
    assert calls(page, start) == edits
    edited = start.after(edits[4].model_copy(update={"id": "call-0"}), page)
    assert (edited.tried, edited.dirty) == ((4,), True)
    assert calls(page, edited) == [FINISH, run_test(page)]
    seen = edited.after(run_test(page), page)
    assert seen.runs == 1 and calls(page, seen) == [FINISH, REVERT]
    again = seen.after(REVERT, page)
    assert calls(page, again) == [call for call in edits if call != edits[4]], "no edit is made twice"
    spent = again.after(edits[0], page).after(run_test(page), page)
    assert spent.runs == 0 and calls(page, spent) == [FINISH]
    assert calls(page, State(runs=0).after(edits[0], page)) == [FINISH]
