"""Tests of the policy and its training need the extra ``rl``; without it they are left out, and said to be."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_FILES = sorted(path.name for path in Path(__file__).parent.glob("test_*.py"))
_MISSING = importlib.util.find_spec("torch") is None
collect_ignore = _FILES if _MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for what was left out."""
    if _MISSING:
        terminalreporter.write_line(
            f"tests/rl: {len(_FILES)} files not run, the extra 'rl' is not installed: make setup-rl"
        )
