"""A small git history with real fixes: what the kill bench builds its tasks from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

START = '''"""Sums of money as people write them."""


def parse(text):
    """``1.50`` -> 150 cents."""
    whole, _, cents = text.partition(".")
    return int(whole) * 100 + int(cents or 0)


def show(cents):
    """150 -> ``1.50``."""
    return str(cents // 100) + "." + str(cents % 100)


def split(cents, people):
    """Shares that add up to the whole."""
    return [cents // people] * people


def largest(amounts):
    """The largest amount, 0 for none."""
    return max(amounts)
'''

TESTS = """import pytest

from money import largest, parse, show, split


def test_parse_whole():
    assert parse("3") == 300


def test_show_two_digits():
    assert show(1225) == "12.25"


def test_split_evenly():
    assert split(9, 3) == [3, 3, 3]


def test_largest_of_some():
    assert largest([1, 7, 3]) == 7
"""

FIXES = (
    (
        "Parse one digit after the point as tenths: 1.5 means one and a half, and was read as one and five hundredths",
        'int(cents or 0)', 'int(cents.ljust(2, "0") or 0)',
        'def test_parse_tenths():\n    assert parse("1.5") == 150\n',
    ),
    (
        "Show cents with two digits always, since 105 cents came out as 1.5 and was then read as one and a half",
        'str(cents % 100)', 'str(cents % 100).zfill(2)',
        'def test_show_small_cents():\n    assert show(105) == "1.05"\n',
    ),
    (
        "Shares of a split add up to the whole again: the remainder goes to the first people instead of being lost",
        "[cents // people] * people", "[cents // people + (n < cents % people) for n in range(people)]",
        "def test_split_keeps_the_remainder():\n    assert split(10, 3) == [4, 3, 3]\n",
    ),
    (
        "The largest of no amounts is zero, as its documentation says, instead of an error about an empty sequence",
        "max(amounts)", "max(amounts, default=0)",
        "def test_largest_of_none():\n    assert largest([]) == 0\n",
    ),
)  # fmt: skip


def write_history(folder: Path) -> Path:
    """A clone with one commit to start from and one for each fix. Dates and ids are fixed."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main", ".", day=1)
    source, tests = START, TESTS
    commit(folder, source, tests, "Money as people write it", day=1)
    for number, (message, old, new, test) in enumerate(FIXES):
        assert source.count(old) == 1
        source, tests = source.replace(old, new), f"{tests}\n\n{test}"
        commit(folder, source, tests, message, day=2 + number)
    return folder


def commit(folder: Path, source: str, tests: str, message: str, *, day: int) -> None:
    """Write both files and commit them."""
    (folder / "money.py").write_text(source)
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "test_money.py").write_text(tests)
    git(folder, "add", "-A", day=day)
    git(folder, "commit", "-q", "-m", message, day=day)


def git(folder: Path, *args: str, day: int) -> None:
    """git with a fixed author and a fixed date, and nothing of the user's own configuration."""
    date = f"2025-03-{day:02d}T12:00:00Z"
    who = {"GIT_AUTHOR_NAME": "toy", "GIT_AUTHOR_EMAIL": "toy@localhost", "GIT_AUTHOR_DATE": date}
    committer = {name.replace("AUTHOR", "COMMITTER"): value for name, value in who.items()}
    environ = os.environ | who | committer | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run(["git", *args], cwd=folder, env=environ, check=True)
