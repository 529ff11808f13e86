"""Names that differ: import name -> distribution, and what provides a pytest option, setting, fixture or mark."""

from __future__ import annotations

import sys
import tomllib
from importlib import resources
from typing import Any

_DATA: dict[str, Any] = tomllib.loads(
    resources.files("envfarm_builders.recipes").joinpath("names.toml").read_text("utf-8")
)

OPTIONS: dict[str, str] = _DATA["options"]
"""Command-line option (pattern) -> distribution of the plug-in that defines it."""
SETTINGS: dict[str, str] = _DATA["settings"]
"""ini setting (pattern) -> distribution of the plug-in that reads it."""
FIXTURES: dict[str, str] = _DATA["fixtures"]
"""Fixture that the project does not define itself -> distribution that provides it."""
MARKS: dict[str, str] = _DATA["marks"]
"""Mark that only means something with a plug-in -> its distribution."""
BUILTIN_FIXTURES = frozenset(_DATA["builtin_fixtures"].split())
TOOLS = frozenset(_DATA["tools"].split())
TEST_GROUPS = frozenset(_DATA["test_groups"].split())
DEVELOPER_GROUPS = frozenset(_DATA["developer_groups"].split())
UNPUBLISHED = frozenset(_DATA["unpublished"].split())
"""Test helpers of mono-repositories that no index has."""
STDLIB = frozenset(sys.stdlib_module_names) | frozenset(_DATA["old_stdlib"].split())
"""Modules of any Python's standard library."""
_MODULES: dict[str, str] = {name: name.replace("_", "-") for name in _DATA["same"].split()} | _DATA["modules"]
_SHARED = frozenset(_DATA["shared"].split())


def distribution_for(module: str) -> str | None:
    """The requirement that provides a module, where that is known; None where a name would be a guess.

    Of namespaces that many distributions share, the longest known beginning decides, else the family's habit that
    ``top.part`` comes from ``top-part``.
    """
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        if found := _MODULES.get(".".join(parts[:length])):
            return found
    if parts[0] in _SHARED:
        return f"{parts[0]}-{parts[1]}".replace("_", "-") if len(parts) > 1 else None
    return _MODULES.get(parts[0])


def is_shared(module: str) -> bool:
    """The top-level module is a namespace that many distributions share."""
    return module.split(".")[0] in _SHARED
