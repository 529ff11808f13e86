"""Python versions named by trove classifiers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..findings import Findings

_MINOR = re.compile(r"Programming Language :: Python :: (3\.\d+)\s*$")


def read_classifiers(classifiers: Iterable[str], findings: Findings) -> None:
    """Add the minor versions that the classifiers name."""
    for line in classifiers:
        if match := _MINOR.match(line.strip()):
            findings.classifiers.add(match[1])
