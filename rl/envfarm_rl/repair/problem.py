"""A repair problem as a tiny policy sees it: a numbered function, what failed, and the edits that are valid."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

LINES = 160
"""Line numbers that have a token of their own; longer functions make no problem."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One valid edit, as one ``sed`` substitution does it."""

    line: int
    """From 1, counted from the function's first line."""
    old: str
    new: str
    occurrence: int = 1
    """Which match of ``old`` on the line, from 1, matches not overlapping."""

    @property
    def script(self) -> str:
        """``s,OLD,NEW,`` with the number of the match where it is not the first. Commas, because a slash would run
        together with the operators that edits are about."""
        return f"s,{_pattern(self.old)},{_replacement(self.new)},{self.occurrence if self.occurrence > 1 else ''}"

    @property
    def quoted(self) -> str:
        """The script as the shell takes it."""
        return "'" + self.script.replace("'", "'\\''") + "'"


@dataclass(frozen=True, slots=True)
class Problem:
    """One function with one planted bug."""

    path: str
    base: int
    """Lines of the file before the function."""
    name: str
    lines: tuple[tuple[int, str], ...]
    """Number (from 1, counted from the function's first line) and text of the lines shown: no docstring, no blanks."""
    edits: tuple[Edit, ...]
    """Every valid edit, in order of position: what may be answered, by a policy and by the random baseline alike."""
    failure: str = ""
    """What the failing test said."""
    shown_test: str = ""
    """Id of the test that may be run; empty where the tree holds none."""

    def command(self, edit: Edit) -> str:
        """The edit as a bash command: ``e='s,==,!=,'; sed -i $((119+7))"$e" path``."""
        # What is changed comes before where: a policy of this size knows much sooner which changes are likely than
        # which line looks wrong. The page numbers lines from the function's first; the shell adds where that lies.
        return f'e={edit.quoted}; sed -i $(({self.base}+{edit.line}))"$e" {shlex.quote(self.path)}'

    @property
    def listing(self) -> str:
        """The numbered function: each line ends with its number, so that a causal reader has seen what it numbers."""
        return "".join(f"{text} #{number}\n" for number, text in self.lines)


def edit_at(line: int, text: str, column: int, old: str, new: str) -> Edit:
    """The edit that replaces ``old`` at ``column`` (from 0) of a line's ``text``. Where ``sed`` would not find it there
    (an overlapping match to the left), it is widened to the left until it would."""
    while True:
        starts = [match.start() for match in re.finditer(re.escape(old), text)]
        if column in starts:
            return Edit(line, old, new, starts.index(column) + 1)
        column -= 1
        old, new = text[column] + old, text[column] + new


def _pattern(text: str) -> str:
    """A basic regular expression that matches ``text`` literally, between commas."""
    return re.sub(r"([\\,.*\[\]^$])", r"\\\1", text)


def _replacement(text: str) -> str:
    return re.sub(r"([\\,&])", r"\\\1", text)
