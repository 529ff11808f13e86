"""Unified diffs in git's form, between two sets of files. Pure: for patches made from trees we hold in memory."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping


def git_diff(before: Mapping[str, bytes], after: Mapping[str, bytes], *, context: int = 3) -> str:
    """The patch that turns ``before`` into ``after``, files sorted; empty when they are equal.

    Only text is expressed: a file with a NUL byte or invalid UTF-8 on either side is left out, since a patch of a
    submission carries text alone. Lines end at ``\\n`` only, as for git; a missing last newline is marked.
    """
    parts: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        old_text, new_text = _text(old), _text(new)
        if old_text is None or new_text is None:
            continue
        parts.extend(_file(path, old_text, new_text, created=old is None, deleted=new is None, context=context))
    return "".join(parts)


def is_text(data: bytes) -> bool:
    """Whether :func:`git_diff` can express the content."""
    return _text(data) is not None


def _text(data: bytes | None) -> str | None:
    if data is None:
        return ""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _file(path: str, old: str, new: str, *, created: bool, deleted: bool, context: int) -> Iterator[str]:
    yield f"diff --git a/{path} b/{path}\n"
    if created:
        yield "new file mode 100644\n"
    if deleted:
        yield "deleted file mode 100644\n"
    source = "/dev/null" if created else f"a/{path}"
    target = "/dev/null" if deleted else f"b/{path}"
    old_lines, new_lines = _lines(old), _lines(new)
    for line in difflib.unified_diff(old_lines, new_lines, source, target, n=context, lineterm="\n"):
        if line.startswith(("--- ", "+++ ")) and line.rstrip("\n")[4:] in (source, target):
            yield line.rstrip("\n") + ("\t\n" if " " in path else "\n")
        elif line.endswith("\n"):
            yield line
        else:
            yield line + "\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    pieces = text.split("\n")
    lines = [piece + "\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines
