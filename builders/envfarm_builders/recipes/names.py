"""Names that differ: import name -> distribution, and what provides a pytest option, setting, fixture or mark."""

from __future__ import annotations

import re
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
HEAVY = frozenset(_DATA["heavy"].split())
"""Large distributions."""
UNPUBLISHED = frozenset(_DATA["unpublished"].split())
"""Test helpers of mono-repositories that no index has."""
STDLIB = frozenset(sys.stdlib_module_names) | frozenset(_DATA["old_stdlib"].split())
"""Modules of any Python's standard library."""
_MODULES: dict[str, str] = {name: name.replace("_", "-") for name in _DATA["same"].split()} | _DATA["modules"]
_FAMILIES: dict[str, int] = _DATA["families"]


def distribution_for(module: str) -> str | None:
    """The requirement that provides a module, where that is known; None where a name would be a guess.

    In namespaces that many distributions share, the longest known beginning decides, else the family's habit.
    """
    parts = module.split(".")
    beginnings = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    if not is_shared(module):
        return _MODULES.get(parts[0])
    for beginning in beginnings:
        if found := _MODULES.get(beginning):
            return found
        if beginning in _FAMILIES:
            length = _FAMILIES[beginning]
            if not 0 < length <= len(parts):
                return None
            # A module of one version of an interface comes from the distribution of all.
            return re.sub(r"-v\d+\w*$", "", "-".join(parts[:length]).replace("_", "-"))
    return None


def is_shared(module: str) -> bool:
    """The top-level module is a namespace that many distributions share."""
    return module.split(".")[0] in _FAMILIES
