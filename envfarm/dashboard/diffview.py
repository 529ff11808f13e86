"""A unified diff as lines with a kind, for colouring. Pure."""

from __future__ import annotations

from collections.abc import Iterator

_FILE = ("diff --git ", "index ", "--- ", "+++ ", "new file ", "deleted file ", "old mode ", "new mode ",
         "similarity ", "rename ", "copy ", "Binary files ", "GIT binary patch")  # fmt: skip


def diff_lines(patch: str) -> Iterator[tuple[str, str]]:
    """``(kind, line)`` with kind ``file``, ``hunk``, ``add``, ``del`` or ``same``.

    Hunk lengths are followed, so that a removed line that reads ``-- x`` is not taken for a file header.
    """
    old = new = 0
    for line in patch.removesuffix("\n").split("\n") if patch else ():
        if old > 0 or new > 0:
            if line.startswith("+"):
                new -= 1
                yield "add", line
                continue
            if line.startswith("-"):
                old -= 1
                yield "del", line
                continue
            if not line.startswith("\\"):
                old, new = old - 1, new - 1
            yield "same", line
        elif line.startswith("@@"):
            old, new = _lengths(line)
            yield "hunk", line
        else:
            yield ("file" if line.startswith(_FILE) else "same"), line


def _lengths(header: str) -> tuple[int, int]:
    """``@@ -a,b +c,d @@`` -> ``(b, d)``; ``(0, 0)`` for what is no hunk header."""
    parts = header.split(" ")
    if len(parts) < 3 or not parts[1].startswith("-") or not parts[2].startswith("+"):
        return 0, 0
    sizes = [part.partition(",")[2] or "1" for part in parts[1:3]]
    return (int(sizes[0]), int(sizes[1])) if all(size.isdecimal() and size.isascii() for size in sizes) else (0, 0)
