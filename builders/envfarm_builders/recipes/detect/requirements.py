"""requirements files: those that are for testing by their name, with what they include."""

from __future__ import annotations

import posixpath
import re

from ..findings import Files, Findings, Weight, text_of

_FILE = re.compile(
    r"(^|/)[\w.-]*(require|deps|constraint)[\w.-]*\.(txt|in|pip)$|(^|/)requirements/[\w./-]+\.(txt|in|pip)$"
)
_TEST = re.compile(r"(^|[-_./])(tests?|testing|pytest|ci|unit|unittests?|tox)([-_.]|$)", re.IGNORECASE)
_DEVELOPER = re.compile(r"(^|[-_./])(dev|develop|development|devel|local)([-_.]|$)", re.IGNORECASE)
_NOT = re.compile(
    r"docs?([-_./]|$)|lint|mypy|typing|style|example|vendor|constraint|publish|release|bench|min(imum)?[-_.]|rtd"
    r"|pre-commit|build|oldest|lowest",
    re.IGNORECASE,
)
_INCLUDE = re.compile(r"^(?:-r|--requirement)[\s=]*(\S+)")


def read_requirements(files: Files, findings: Findings) -> None:
    """Add the requirement files of the tree's upper two levels that are for tests or development."""
    for path in sorted(files):
        if path.count("/") > 2 or not _FILE.search(path) or _NOT.search(path):
            continue
        if _preferred_source(files, path):
            continue
        if _TEST.search(path):
            findings.want(read_lines(files, path), Weight.test, path)
        elif _DEVELOPER.search(path):
            findings.want(read_lines(files, path), Weight.developer, path)
    if not findings.installable and "requirements.txt" in files:
        findings.want(read_lines(files, "requirements.txt"), Weight.runtime, "requirements.txt")


def read_lines(files: Files, path: str, seen: tuple[str, ...] = ()) -> list[str]:
    """The requirement lines of a file, includes in place, options and hashes left out."""
    if _preferred_source(files, path):
        path = path.removesuffix(".txt") + ".in"
    text = text_of(files, path)
    if text is None or path in seen:
        return []
    found: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        row = re.split(r"(?:^|\s)#", line)[0].strip()
        if match := _INCLUDE.match(row):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
            found += read_lines(files, target, (*seen, path))
        elif row and not row.startswith("-"):
            found.append(re.split(r"\s+--", row)[0].strip())
    return found


def _preferred_source(files: Files, path: str) -> bool:
    """A compiled ``x.txt`` beside its ``x.in``: the loose one is read, for the pins are of another interpreter."""
    return path.endswith(".txt") and path.removesuffix(".txt") + ".in" in files
