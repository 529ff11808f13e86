"""Marks by which a project says that a test needs the outside world: such tests are not asked of a box without it."""

from __future__ import annotations

import re
from collections import Counter

from ..findings import Files, Findings
from .layout import test_files
from .pytest_config import configured_options

_OUTSIDE = re.compile(
    r"((needs?|requires?|uses?|with)_?)?(network|internet|web_?access|online|remote_server|docker)(_?(access|required|tests?))?"
    r"|e2e|end_to_end|live|live_tests?|integration|integration_tests?|external(_services?)?"
)
_MARK = re.compile(rb"pytest\.mark\.(\w+)")
_WHOLE_FILE = re.compile(rb"^pytestmark\s*=[^\n]*?(?:\[[^\]]*)?mark\.(\w+)", re.MULTILINE)


def read_marks(files: Files, findings: Findings) -> None:
    """Leave out marked tests, as long as some test file is not marked as a whole; keeps the project's own ``-m``."""
    used: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    tests = test_files(files)
    for path in tests:
        used.update({mark.decode() for mark in _MARK.findall(files[path])})
        whole.update({mark.decode() for mark in _WHOLE_FILE.findall(files[path])})
    names = sorted(name for name in used if _OUTSIDE.fullmatch(name))
    if not names or sum(whole[name] for name in names) >= len(tests):
        return
    arguments = list(findings.pytest_args)
    chosen = _own_choice(arguments) or _own_choice(configured_options(files))
    expression = " and ".join([*([f"({chosen})"] if chosen else []), *(f"not {name}" for name in names)])
    findings.pytest_args = (*arguments, "-m", expression)
    findings.notes.append(f"tests marked {', '.join(names)}: left out, the mark says that they need the outside world")


def _own_choice(words: list[str]) -> str:
    """The value of the last ``-m``, taken out of ``words``: a later one would replace it."""
    chosen = ""
    while "-m" in words[:-1]:
        position = words.index("-m")
        chosen = words[position + 1]
        del words[position : position + 2]
    return chosen
