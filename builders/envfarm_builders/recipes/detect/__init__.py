"""Deterministic detection: a tree in, a recipe out. Nothing of the tree is executed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from envfarm.core.environment import Recipe

from ..findings import Files, Findings, text_of
from ..interpreters import Interpreter, choose
from ..plan import make_recipe
from .ci import read_ci
from .django import read_django
from .imports import read_imports
from .layout import read_layout
from .locks import read_locks
from .marks import read_marks
from .nox import read_nox
from .pipfile import read_pipfile
from .pyproject import read_pyproject
from .pytest_config import read_pytest_config
from .reached import read_reached
from .requirements import read_requirements
from .setup_cfg import read_setup_cfg
from .setup_py import read_setup_py
from .tox import read_tox

DETECTORS = (
    read_pyproject, read_setup_cfg, read_setup_py, read_requirements, read_pipfile, read_tox, read_nox, read_ci,
    read_locks, read_pytest_config, read_layout, read_marks, read_imports,
    read_reached, read_django,
)  # fmt: skip
"""In order of authority: metadata first, guesses from imports last (they look at what the others found)."""


def find(files: Files) -> Findings:
    """Run every detector over the tree."""
    findings = Findings()
    for detector in DETECTORS:
        detector(files, findings)
    findings.name = findings.name or _name_of_sdist(files)
    if findings.installable and not findings.backend:
        findings.backend = "setuptools"
    return findings


def _name_of_sdist(files: Files) -> str:
    """Source archives carry their metadata, also where only running the build script would tell the name."""
    match = re.search(r"^Name: ([\w.-]+)\s*$", text_of(files, "PKG-INFO") or "", re.MULTILINE)
    return match[1] if match else ""


def detect(files: Files, *, version: str, released_at: datetime | None, interpreters: Sequence[Interpreter]) -> Recipe:
    """The recipe of a tree.

    ``version`` is the release that the tree is or follows (empty when unknown), ``released_at`` sets the date cut-off
    (none when unknown). Raises ``BuilderError`` (no_toolchain) where no interpreter present satisfies the tree.
    """
    findings = find(files)
    interpreter, why = choose(interpreters, findings, released_at)
    return make_recipe(files, findings, interpreter, why, version=version, released_at=released_at)
