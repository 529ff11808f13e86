"""Statements out of changelogs: the section of a version, or the lines a revision adds."""

from __future__ import annotations

import re
from collections.abc import Mapping

from packaging.version import InvalidVersion, Version

from envfarm.core.archive import File
from envfarm.core.ports import Repository
from envfarm.core.source import Commit, Issue, IssueKind

from ..split import is_changelog
from ..statement import clean

_VERSION = r"v?(?P<version>\d+(?:\.\d+)+(?:[._-]?(?:post|rev)\d*)?)"
_HEADING = re.compile(
    rf"^(?:\#+\s*|=+\s*|\.\.\s+version(?:added|changed)::\s*)?"
    rf"(?:(?:version|release|changes\s+in(?:\s+version)?|new\s+in|what'?s\s+new\s+in|highlights\s+in|\w[\w.\-]{{0,30}})\s+)?"
    rf"[\[(<`*]{{0,3}}{_VERSION}[\])>`*]{{0,3}}(?P<rest>.*)$",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"^\s*([=\-~^*#+`'\"_.:])\1{2,}\s*$")
_PAGE = re.compile(r"(?:README|docs?/(?:index|intro|introduction|about))\.(?:rst|md|txt)")
_MAX_HEADING = 110


def release_section(files: Mapping[str, File], version: str) -> str:
    """What the tree's changelog says of ``version``, or ''."""
    for path in sorted(filter(tells_of_versions, files), key=_likely_first):
        text = files[path].data.decode("utf-8", "replace")
        if section := section_of(text, version):
            return section
    return ""


def section_of(text: str, version: str, after: str = "") -> str:
    """The section headed by ``version``, or ''; with ``after``, also those of versions between the two."""
    wanted, floor = _parsed(version), _parsed(after)
    if wanted is None:
        return ""
    lines = text.splitlines()
    found: list[str] = []
    taking = False
    for number, line in enumerate(lines):
        heading = _heading(lines, number)
        if heading is not None:
            taking = heading == wanted or (floor is not None and floor < heading < wanted)
        elif taking and (found or not _UNDERLINE.match(line)):
            found.append(line)
    return "\n".join(found).strip("\n ")


def added_lines(diff: str) -> str:
    """The text that a diff adds, hunks apart by a blank line."""
    out: list[str] = []
    for line in diff.splitlines():
        if line.startswith("@@"):
            out.append("")
        elif line.startswith("+") and not line.startswith("+++"):
            out.append(line[1:])
    return "\n".join(out).strip("\n")


class ChangelogSource:
    """Reads the changelog that a revision touches: its section for a release, the lines it adds otherwise."""

    def issue(self, repository: Repository, base: Commit, fix: Commit) -> Issue | None:
        changes = repository.changes(base.id, fix.id)
        present = [change.path for change in changes if change.status != "D"]
        if fix.version and fix.version != base.version:
            for path in sorted(filter(tells_of_versions, present), key=_likely_first):
                text = (repository.read(fix.id, path) or b"").decode("utf-8", "replace")
                if section := section_of(text, fix.version, base.version):
                    reference = f"{path}#{fix.version}"
                    return Issue(kind=IssueKind.changelog, title=_title(section), body=section, reference=reference)
        touched = sorted(filter(is_changelog, present), key=_likely_first)
        body = added_lines(repository.diff(base.id, fix.id, touched))
        if not body.strip():
            return None
        return Issue(kind=IssueKind.changelog, title=_title(body), body=body, reference=touched[0])


def tells_of_versions(path: str) -> bool:
    """Whether ``path`` may hold sections headed by versions: a changelog, or a page where some projects keep theirs."""
    return is_changelog(path) or bool(_PAGE.fullmatch(path))


def _likely_first(path: str) -> tuple[bool, int, bool, str]:
    """Changelogs before pages, shallow before deep, ``CHANGES`` before ``NEWS``."""
    name = path.rpartition("/")[2].lower()
    return not is_changelog(path), path.count("/"), not name.startswith("change"), path


def _title(text: str) -> str:
    """The first line that says something; headings of versions and categories do not."""
    for line in clean(text).splitlines():
        words = line.strip().lstrip("-*+•#= ").strip()
        if len(words.split()) > 2:
            return words[:120]
    return ""


def _heading(lines: list[str], number: int) -> Version | None:
    """The version a line is the heading of, or None."""
    line = lines[number].rstrip()
    if not line or len(line) > _MAX_HEADING or line[0] in " \t":
        return None
    match = _HEADING.match(line)
    if match is None:
        return None
    following = lines[number + 1] if number + 1 < len(lines) else ""
    marked = line.startswith("#") or bool(_UNDERLINE.match(following))
    if not marked:
        # A bare line is a heading when it holds a version and at most a date: "1.2.3 (2024-05-06)", "v1.2:".
        rest = re.sub(
            r"[\d\s()\[\],.:/*`–—-]|released?|unreleased|on|[A-Z][a-z]{2,8}|(?<=\d)(st|nd|rd|th)", "", match["rest"]
        )
        if rest or not re.match(r"\[?v?\d|version|release", line, re.IGNORECASE):
            return None
        if line.lstrip()[:1] in "-*+":
            return None
    return _parsed(match["version"])


def _parsed(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
