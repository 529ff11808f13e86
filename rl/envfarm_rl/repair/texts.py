"""The form of answers and of what tools say, for the tokenizer's training: always short, however rare on pages."""

from __future__ import annotations

from ..text.chat import text
from .problem import Edit, Problem
from .prompt import answer, heard
from .protocol import FINISH, REVERT, make, run_test
from .world import SILENT

_PROBLEM = Problem("a.py", 119, "f", ((1, "x"),), (Edit(1, "==", "!="),), shown_test="tests/test_a.py::test_f")

FORMS = tuple(
    text(pieces)
    for pieces in (
        answer(make(_PROBLEM, _PROBLEM.edits[0])),
        answer(run_test(_PROBLEM)),
        answer(REVERT),
        answer(FINISH),
        heard(SILENT),
        heard(f"1 passed in 0.05s\n{SILENT}"),
        heard(f"1 failed in 0.05s\n{SILENT}"),
    )
)
