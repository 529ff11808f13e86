"""What a commit message says it is about, where that alone rules a task out."""

from __future__ import annotations

import re

_PREFIX = r"^\s*(?:\[[^\]]*\]\s*|[\w/]+(?:\([\w ,/-]*\))?!?:\s*)?"
_HOUSEKEEPING: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a merge of another line", re.compile(r"^Merge (?:remote-tracking )?(?:branch|tag|commit)\b", re.I)),
    ("a revert", re.compile(rf'{_PREFIX}revert(?:s|ed|ing)?\b|^Revert "', re.I)),
    ("a release", re.compile(rf"{_PREFIX}(?:release|bump|prepare|start|begin|tag|cut)[\w ]*(?:version|release)?\s*(?:to\s+)?v?\d+\.\d+[\w.+-]*\s*$", re.I)),
    ("a version bump", re.compile(rf"{_PREFIX}(?:bump|update|increase|increment)\s+(?:the\s+)?version\b", re.I)),
    ("a dependency update", re.compile(rf"{_PREFIX}(?:bump|update|upgrade|pin)\s+[\w./@\[\]-]+\s+(?:from|requirement)\b", re.I)),
    ("a bot's update", re.compile(r"^\s*\[(?:pre-commit\.ci|bot)\]|^\s*Scheduled (?:bi)?weekly dependency update|^chore\(deps", re.I)),
    ("formatting", re.compile(rf"{_PREFIX}(?:run|apply|use|switch to|reformat|format(?:ted|ting)?|blacken|lint|isort|pyupgrade|flake8)\b[^.\n]{{0,30}}\b(?:black|isort|ruff|pyupgrade|flake8|autopep8|yapf|lint\w*|formatt?\w*|pre-commit|pylint)\b", re.I)),
    ("typing", re.compile(r"^\s*(?:typing|types?|mypy|pyright)(?:\([\w ,/-]*\))?!?:|^\s*(?:add|fix|improve|update|complete)\s+(?:\w+\s+){0,2}(?:type (?:hints?|annotations?)|typing|annotations|type stubs)\b", re.I)),
    ("documentation, tests or tooling", re.compile(r"^\s*(?:docs?|tests?|ci|build|style|chore)(?:\([\w ,/-]*\))?!?:\s", re.I)),
    ("a refactoring", re.compile(rf"^\s*(?:refactor\w*|clean[- ]?up|perf)(?:\([\w ,/-]*\))?!?:|{_PREFIX}(?:refactor(?:ed|ing|s)?|clean(?:ed|ing)?[ -]?up|code clean-?up|reorgani[sz]e|rename|moderni[sz]e)\b", re.I)),
    ("the end of support for an old version", re.compile(rf"{_PREFIX}(?:drop|remove|end|deprecate)(?:s|ped|d|ping)?\s+(?:\w+\s+){{0,3}}(?:support\s+(?:for\s+)?)?(?:EOL\s+)?(?:Python|Py|PyPy|CPython)[ -]?\d", re.I)),
)  # fmt: skip


def housekeeping(message: str) -> str | None:
    """What kind of upkeep the first line of a message announces, or None."""
    first = message.strip().partition("\n")[0]
    for what, pattern in _HOUSEKEEPING:
        if pattern.search(first):
            return f"{what}: {first[:80]}"
    return None
