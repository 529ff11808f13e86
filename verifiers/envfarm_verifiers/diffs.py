"""Unified diffs in git form: parsed strictly, and written again from what was parsed.

A grader must not depend on two programs reading one diff alike, so nothing but :func:`render`'s output reaches ``git
apply``: text that this parser did not understand does not exist for it either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_BINARY = re.compile(r"(?:literal|delta) (\d+)")
_BASE85 = re.compile(r"[A-Za-z][0-9A-Za-z!#$%&()*+\-;<=>?@^_`{|}~]{5,65}")
_INDEX = re.compile(r"index [0-9a-f]{40}\.\.[0-9a-f]{40}(?: \d{6})?")
MAX_BINARY_BYTES = 32 << 20
"""Most bytes a binary change may say it unpacks to."""
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_OCTAL = re.compile(r"\\([0-7]{3})|\\(.)|([^\\])", re.S)


class DiffError(ValueError):
    """The text is no diff that this parser takes; the message says where."""


@dataclass(frozen=True)
class FileDiff:
    """One file's section. Paths are relative, without ``a/`` and ``b/``; None is ``/dev/null``."""

    old: str | None
    new: str | None
    old_mode: str = ""
    new_mode: str = ""
    similarity: str = ""
    """``rename`` or ``copy``, else empty."""
    binary: bool = False
    """git calls the file binary; ``content`` is empty where the diff only says so."""
    content: str = ""
    """Of a binary change: the ``index`` line and the data, as git wrote them."""
    hunks: tuple[str, ...] = ()
    """Each with its ``@@`` line, ending in a newline."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path the section names, without repetition."""
        return tuple(dict.fromkeys(path for path in (self.old, self.new) if path is not None))

    @property
    def modes(self) -> tuple[str, ...]:
        """Every mode the section names."""
        return tuple(mode for mode in (self.old_mode, self.new_mode) if mode)


def parse(text: str) -> list[FileDiff]:
    """Sections in order. Text before the first and between sections is skipped. Raises :class:`DiffError`."""
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    sections: list[FileDiff] = []
    at = 0
    while at < len(lines):
        if lines[at].startswith("diff --git "):
            section, at = _section(lines, at)
            sections.append(section)
        elif lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            section, at = _bare_section(lines, at)
            sections.append(section)
        else:
            at += 1
    if not sections and text.strip():
        raise DiffError("it holds no file section")
    return sections


def render(sections: Iterable[FileDiff]) -> str:
    """The diff again, canonical."""
    return "".join(_render(section) for section in sections)


def _section(lines: list[str], at: int) -> tuple[FileDiff, int]:
    header = lines[at]
    start = at
    at += 1
    modes = {"old": "", "new": ""}
    moves: dict[str, str] = {}
    similarity = ""
    created = deleted = binary = False
    old: str | None = None
    new: str | None = None
    named = False
    index = content = ""
    while at < len(lines):
        line = lines[at].removesuffix("\r")
        key, _, value = line.rpartition(" ")
        if key in ("old mode", "new mode"):
            modes[key[:3]] = value
        elif key == "new file mode":
            created, modes["new"] = True, value
        elif key == "deleted file mode":
            deleted, modes["old"] = True, value
        elif match := re.match(r"(rename|copy) (from|to) (.+)", line):
            similarity = match[1]
            moves[match[2]] = _unquote(match[3])
        elif line.startswith("index "):
            index = line
        elif line.startswith(("similarity index ", "dissimilarity index ")):
            pass
        elif line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            old, new, named = _named(lines[at]), _named(lines[at + 1]), True
            at += 2
            break
        elif line == "GIT binary patch":
            binary = True
            content, at = _data(lines, at + 1)
            if not _INDEX.fullmatch(index):
                raise DiffError(f"line {start + 1}: binary content without its full index line")
            content = f"{index}\n{content}"
            break
        elif line.startswith("Binary files "):
            binary = True
            at += 1
            break
        else:
            break
        at += 1
    hunks, at = _hunks(lines, at) if named else ((), at)
    if named and not hunks:
        raise DiffError(f"line {start + 1}: a section without hunks")
    if not named:
        if moves:
            old, new = moves.get("from"), moves.get("to")
        else:
            old = new = _same_name(header)
            if created:
                old = None
            if deleted:
                new = None
    if named and (created or deleted):
        old, new = (None if created else old), (None if deleted else new)
    if moves and (old, new) != (moves.get("from"), moves.get("to")):
        raise DiffError(f"line {start + 1}: a rename's names disagree")
    if old is None and new is None:
        raise DiffError(f"line {start + 1}: a section without a file")
    if not similarity and old is not None and new is not None and old != new:
        raise DiffError(f"line {start + 1}: the names {old!r} and {new!r} differ without a rename")
    return FileDiff(old, new, modes["old"], modes["new"], similarity, binary, content, hunks), at


def _bare_section(lines: list[str], at: int) -> tuple[FileDiff, int]:
    """A section without git's header: ``--- a/x``, ``+++ b/x``."""
    old, new = _named(lines[at]), _named(lines[at + 1])
    hunks, end = _hunks(lines, at + 2)
    if not hunks:
        raise DiffError(f"line {at + 1}: a section without hunks")
    if (old is None and new is None) or (old is not None and new is not None and old != new):
        raise DiffError(f"line {at + 1}: the names differ")
    return FileDiff(old, new, "", "100644" if old is None else "", hunks=hunks), end


def _hunks(lines: list[str], at: int) -> tuple[tuple[str, ...], int]:
    hunks: list[str] = []
    while at < len(lines) and (match := _HUNK.match(lines[at])):
        left, right = (int(match[2] or 1), int(match[4] or 1))
        taken = [f"@@ -{match[1]},{left} +{match[3]},{right} @@"]
        at += 1
        while at < len(lines) and (left > 0 or right > 0 or lines[at].startswith("\\")):
            line = lines[at]
            mark = line[:1] or " "
            if mark not in " +-\\":
                raise DiffError(f"line {at + 1}: not a line of a hunk")
            left -= mark in " -"
            right -= mark in " +"
            taken.append(line or " ")
            at += 1
        if left or right:
            raise DiffError(f"line {at}: a hunk's length disagrees with its header")
        hunks.append("\n".join(taken) + "\n")
    return tuple(hunks), at


def _data(lines: list[str], at: int) -> tuple[str, int]:
    """Binary content: git's forward and (where it is there) reverse part."""
    taken = ["GIT binary patch"]
    for _ in range(2):
        match = _BINARY.fullmatch(lines[at]) if at < len(lines) else None
        if match is None:
            break
        if int(match[1]) > MAX_BINARY_BYTES:
            raise DiffError(f"line {at + 1}: more than {MAX_BINARY_BYTES >> 20} MiB of binary content")
        taken.append(lines[at])
        at += 1
        while at < len(lines) and _BASE85.fullmatch(lines[at]):
            taken.append(lines[at])
            at += 1
        if at < len(lines) and lines[at] != "":
            raise DiffError(f"line {at + 1}: binary content is damaged")
        taken.append("")
        at += 1
    if len(taken) == 1:
        raise DiffError(f"line {at + 1}: binary content is missing")
    return "\n".join(taken) + "\n", at


def _named(line: str) -> str | None:
    """The path of a ``---`` or ``+++`` line."""
    text = line[4:].removesuffix("\r")
    text = text.rstrip("\t") if text.startswith('"') else text.split("\t")[0]
    name = _unquote(text)
    if name == "/dev/null":
        return None
    if name[:2] not in ("a/", "b/"):
        raise DiffError(f"the name {name!r} lacks its a/ or b/ prefix")
    return name[2:]


def _same_name(header: str) -> str:
    """The path of a ``diff --git`` line whose two names are the same."""
    text = header.removeprefix("diff --git ").removesuffix("\r")
    if text.startswith('"'):
        middle = (len(text) - 1) // 2
        first, second = _unquote(text[:middle]), _unquote(text[middle + 1 :])
    else:
        middle = (len(text) - 1) // 2
        first, second = text[:middle], text[middle + 1 :]
    if first[:2] != "a/" or second[:2] != "b/" or first[2:] != second[2:]:
        raise DiffError(f"the header {header[:200]!r} names no single file")
    return first[2:]


def _unquote(text: str) -> str:
    if not (len(text) >= 2 and text[0] == text[-1] == '"'):
        return text
    return bytes(_unquoted(text[1:-1])).decode("utf-8", "surrogateescape")


def _unquoted(text: str) -> Iterator[int]:
    for match in _OCTAL.finditer(text):
        if match[1]:
            value = int(match[1], 8)
            if value > 255:
                raise DiffError("a quoted name is damaged")
            yield value
        elif match[2]:
            if match[2] not in _ESCAPES:
                raise DiffError("a quoted name is damaged")
            yield _ESCAPES[match[2]]
        else:
            yield from match[3].encode("utf-8", "surrogateescape")


def _quote(name: str) -> str:
    raw = name.encode("utf-8", "surrogateescape")
    if all(32 < byte < 127 and byte not in b'"\\' for byte in raw):
        return name
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in raw) + '"'


def _render(section: FileDiff) -> str:
    left = section.old if section.old is not None else section.new
    right = section.new if section.new is not None else section.old
    out = [f"diff --git {_quote(f'a/{left}')} {_quote(f'b/{right}')}"]
    if section.old is None:
        out.append(f"new file mode {section.new_mode or '100644'}")
    elif section.new is None:
        out.append(f"deleted file mode {section.old_mode or '100644'}")
    elif section.old_mode and section.new_mode:
        out += [f"old mode {section.old_mode}", f"new mode {section.new_mode}"]
    if section.similarity:
        out += [f"{section.similarity} from {_quote(section.old or '')}"]
        out += [f"{section.similarity} to {_quote(section.new or '')}"]
    text = "\n".join(out) + "\n" + section.content
    if section.hunks:
        old = "/dev/null" if section.old is None else _quote(f"a/{section.old}")
        new = "/dev/null" if section.new is None else _quote(f"b/{section.new}")
        text += f"--- {old}\n+++ {new}\n" + "".join(section.hunks)
    return text
