"""The code of the run-time attacks, read from ``payloads.txt``. It is data here: it only ever runs in a box."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_HEAD = re.compile(r"^#: (\S+) (import|call|part)\n", re.M)
_INCLUDE = re.compile(r"^#include (\S+)\n", re.M)


@cache
def payloads() -> dict[str, tuple[str, bool]]:
    """Name -> (source, whether it wraps calls: else it runs at import)."""
    text = (resources.files("envfarm_verifiers.attacks") / "payloads.txt").read_text(encoding="utf-8")
    pieces = _HEAD.split(text)[1:]
    found = {name: (when, body.strip("\n") + "\n") for name, when, body in zip(*[iter(pieces)] * 3, strict=True)}
    parts = {name: body for name, (when, body) in found.items() if when == "part"}
    return {
        name: (_INCLUDE.sub(lambda match: parts[match[1]], body), when == "call")
        for name, (when, body) in found.items()
        if when != "part"
    }
