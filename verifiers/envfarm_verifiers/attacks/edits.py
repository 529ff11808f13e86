"""Edits of a tree, as patches in git form."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ..diffs import FileDiff, render


@dataclass(frozen=True)
class Tree:
    """Path -> content."""

    files: dict[str, bytes]

    def text(self, path: str) -> str | None:
        """A text file's content; None for one that is absent or no UTF-8 text."""
        try:
            data = self.files[path].decode("utf-8")
        except (KeyError, UnicodeDecodeError):  # the tree may hold anything
            return None
        return None if "\r" in data or "\0" in data else data

    def write(self, path: str, content: str | None) -> str:
        """Patch that makes ``path`` hold ``content``, or removes it (None). Empty when there is nothing to do."""
        old = self.text(path)
        if old == content or (old is None and path in self.files):
            return ""
        return render([_section(path, old, content)])

    def prepend(self, path: str, content: str) -> str:
        """Patch that puts ``content`` in front of a file, or creates it."""
        return self.write(path, content + (self.text(path) or ""))

    def append(self, path: str, content: str) -> str:
        """Patch that puts ``content`` behind a file, or creates it."""
        old = self.text(path) or ""
        return self.write(path, old + ("" if old.endswith("\n") or not old else "\n") + content)


def _section(path: str, old: str | None, new: str | None) -> FileDiff:
    before = (old or "").splitlines(keepends=True)
    after = (new or "").splitlines(keepends=True)
    lines = list(difflib.unified_diff(before, after, n=3))[2:]
    hunks: list[str] = []
    for line in lines:
        text = line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
        if text.startswith("@@"):
            hunks.append(text)
        else:
            hunks[-1] += text
    return FileDiff(
        None if old is None else path,
        None if new is None else path,
        new_mode="100644" if old is None else "",
        hunks=tuple(hunks),
    )
