"""Reading the output of ``pytest --collect-only -q``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COLLECTED = re.compile(r"(?:^|/)?(\d+)(?:/\d+)? tests? (?:collected|found)|^collected (\d+) items?", re.MULTILINE)
_ERRORS = re.compile(r"(\d+) errors?\b")
_ITEM = re.compile(r"^[^\s<][^\n]*::[^\n]+$", re.MULTILINE)
_FILE_COUNT = re.compile(r"^[^\s:]+\.py: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Collection:
    """What a collection gave."""

    tests: int
    errors: int
    exit_code: int | None
    output: str

    @property
    def clean(self) -> bool:
        """Tests were collected and no file failed to."""
        return self.tests > 0 and self.errors == 0 and self.exit_code == 0


def read_collection(output: str, exit_code: int | None) -> Collection:
    """Parse the console output of any pytest since 6."""
    tests = 0
    for match in _COLLECTED.finditer(output):
        tests = int(match[1] or match[2])
    if not tests:
        tests = len(_ITEM.findall(output)) or sum(int(count) for count in _FILE_COUNT.findall(output))
    tail = output[-600:]
    errors = max((int(count) for count in _ERRORS.findall(tail)), default=0)
    if not errors and exit_code not in (0, 5, None):
        errors = 1
    return Collection(tests, errors, exit_code, output)
