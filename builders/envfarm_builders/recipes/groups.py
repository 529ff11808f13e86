"""Which names of extras, groups and tools mean testing."""

from __future__ import annotations

import re

from .names import DEVELOPER_GROUPS, TEST_GROUPS, TOOLS

_TOOL_FAMILIES = re.compile(
    r"^(flake8-|pylint-|sphinx|mkdocs|mypy-boto|types-|.*-stubs$|jupyter-book|nbsphinx|pytest-codspeed$|tox-)"
)


def normal(name: str) -> str:
    """An extra's or group's name in the one form they are compared in."""
    return re.sub(r"[-_.\s]+", "-", name).strip("-").lower()


def is_test_name(name: str) -> bool:
    """The extra or group is for running the tests."""
    return normal(name) in TEST_GROUPS


def is_developer_name(name: str) -> bool:
    """The extra or group is for development at large: linters and documentation tools among test requirements."""
    return normal(name) in DEVELOPER_GROUPS


def is_tool(distribution: str) -> bool:
    """A linter, documentation or release tool: no test needs it unless it imports it."""
    name = normal(distribution)
    return name in TOOLS or bool(_TOOL_FAMILIES.match(name))
