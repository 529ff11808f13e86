"""What a commit message's first line says the commit is about, where that alone rules a task out."""

from __future__ import annotations

import re

_VERBS = r"(?:s|es|ed|d|ing|ped|ping)?"
_SCOPE = r"(?:\([\w ,./-]*\))?!?:"
_LEAD = rf"^\s*(?:\[[^\]]*\]\s*|[\w/]+{_SCOPE}\s*)?"
"""An optional ``[tag]`` or ``type(scope):`` before the sentence."""
_TOOLS = r"black|isort|ruff|pyupgrade|flake8|autopep8|yapf|pylint|pre-?commit|lint\w*|pep-?8"

_UPKEEP: tuple[tuple[str, str], ...] = (
    ("a merge of another line", r"^Merge (?:remote-tracking )?(?:branch|tag|commit)\b"),
    ("a revert", rf"{_LEAD}revert{_VERBS}\b|^Revert \""),
    ("a release", rf"{_LEAD}(?:release|bump|prepare|start|begin|tag|cut)[\w ]*(?:to\s+)?v?\d+\.\d+[\w.+-]*\s*$"),
    ("a version bump", rf"{_LEAD}(?:bump|update|increase|increment){_VERBS}\s+(?:the\s+)?version\b"),
    ("a dependency update", rf"{_LEAD}(?:bump|update|upgrade|pin){_VERBS}\s+[\w./@\[\]-]+\s+(?:from|requirement)\b"),
    ("a bot's update", r"^\s*\[(?:pre-commit\.ci|bot)\]|^\s*scheduled (?:bi)?weekly dependency|^\s*chore\(deps"),
    (
        "formatting",
        rf"{_LEAD}(?:run|apply|use|switch to|reformat|format|blacken|fix){_VERBS}\b[^.\n]{{0,30}}\b(?:{_TOOLS})\b",
    ),
    ("typing", rf"^\s*(?:typing|types?|mypy|pyright){_SCOPE}"),
    (
        "typing",
        r"^\s*(?:add|fix|improve|update|complete)\w*\s+(?:\w+\s+){0,2}"
        r"(?:type[ -]?(?:hint|annotation|stub)s?|typing|annotations)\b",
    ),
    ("documentation, tests or tooling", rf"^\s*(?:docs?|tests?|ci|build|style|chore){_SCOPE}\s"),
    ("a refactoring", rf"^\s*(?:refactor\w*|clean[- ]?up){_SCOPE}"),
    (
        "a refactoring",
        rf"{_LEAD}(?:(?:code )?(?:clean{_VERBS}[ -]?up|refactor{_VERBS})|reorgani[sz]e|moderni[sz]e)\b",
    ),
    ("a refactoring", rf"{_LEAD}(?:use|convert to|switch to|replace .* with) f-?strings\b"),
    ("speed", rf"^\s*perf\w*{_SCOPE}|\bO\((?:1|n|log)[^)]*\)|{_LEAD}(?:speed{_VERBS}[ -]?up|optimi[sz]e{_VERBS})\b"),
    (
        "speed",
        rf"{_LEAD}(?:improve|increase|boost){_VERBS}\s+(?:[\w.`]+\s+){{0,3}}(?:performance|speed)\b|^\s*faster\b",
    ),
    (
        "the end of support for an old version",
        rf"{_LEAD}(?:drop|remove|end|deprecate){_VERBS}\s+(?:\w+\s+){{0,3}}(?:support\s+(?:for\s+)?)?(?:EOL\s+)?"
        r"(?:Python|Py|PyPy|CPython)[ -]?\d",
    ),
)
_PATTERNS = tuple((what, re.compile(pattern, re.IGNORECASE)) for what, pattern in _UPKEEP)


def housekeeping(message: str) -> str | None:
    """What kind of upkeep the first line of a message announces, with the line; or None."""
    first = message.strip().partition("\n")[0]
    for what, pattern in _PATTERNS:
        if pattern.search(first):
            return f"{what}: {first[:80]}"
    return None
