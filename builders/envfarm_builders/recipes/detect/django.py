"""Django projects: the settings module that their own runner sets, for pytest to find."""

from __future__ import annotations

import re

from ..findings import Files, Findings, Weight
from .imports import is_own

_SETTINGS = re.compile(rb"DJANGO_SETTINGS_MODULE[\"']?\]?\s*[,=:]\s*[\"']?([A-Za-z_][\w.]*\w)")
_PLACES = re.compile(
    r"(^|/)(runtests|manage|quicktest|conftest|__main__|tests/__init__)\.py$"
    r"|^(tox\.ini|Makefile|setup\.cfg|noxfile\.py)$"
)


def read_django(files: Files, findings: Findings) -> None:
    """Set ``DJANGO_SETTINGS_MODULE`` and ask for pytest-django, unless pytest's configuration or a conftest does."""
    if "pytest-django" in findings.names() or any(
        path.endswith("conftest.py") and b"settings.configure(" in data for path, data in files.items()
    ):
        return
    for path in sorted(files, key=lambda each: (each.count("/"), each)):
        if not _PLACES.search(path):
            continue
        for match in _SETTINGS.finditer(files[path]):
            module = match[1].decode()
            if is_own(files, module):
                findings.env.setdefault("DJANGO_SETTINGS_MODULE", module)
                findings.want(["pytest-django"], Weight.guessed, f"DJANGO_SETTINGS_MODULE in {path}")
                return
