"""First-parent history out of one ``git log``: commits, what they change, and the version they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from packaging.version import InvalidVersion, Version

from envfarm.core.source import Commit, FileChange

HEADER = "%x01%H%x02%P%x02%aI%x02%B%x03"
"""A commit's header in ``git log -z``: no path begins with ``\\x01``."""


def parse_log(pieces: Iterable[bytes], versions: dict[str, str]) -> Iterator[tuple[Commit, tuple[FileChange, ...]]]:
    """Pairs out of the NUL-separated pieces of ``git log -z --raw --numstat --format=HEADER``."""
    commit: Commit | None = None
    tokens: list[bytes] = []
    for piece in pieces:
        piece = piece.removeprefix(b"\n")
        if piece.startswith(b"\x01"):
            if commit is not None:
                yield commit, parse_changes(tokens)
            commit, tokens = _commit(piece, versions), []
            rest = piece.rpartition(b"\x03")[2].lstrip(b"\n")
            if rest:
                tokens.append(rest)
        elif piece:
            tokens.append(piece)
    if commit is not None:
        yield commit, parse_changes(tokens)


def parse_changes(tokens: Iterable[bytes]) -> tuple[FileChange, ...]:
    """File changes out of the NUL-separated fields of ``--raw --numstat -z``, in path order."""
    status: dict[str, tuple[str, str | None]] = {}
    counts: dict[str, tuple[int, int, bool]] = {}
    stream = iter(tokens)
    for token in stream:
        token = token.lstrip(b"\n")
        if token.startswith(b":"):
            letter = token.rsplit(b" ", 1)[1][:1].decode()
            first = _text(next(stream))
            if letter in "RC":
                second = _text(next(stream))
                status[second] = (letter if letter == "R" else "A", first if letter == "R" else None)
            else:
                status[first] = (letter, None)
        elif token.count(b"\t") >= 2:
            added, deleted, path = token.split(b"\t", 2)
            name = _text(path)
            if not path:
                next(stream)
                name = _text(next(stream))
            binary = added == b"-"
            counts[name] = (0, 0, True) if binary else (int(added), int(deleted), False)
    changes = []
    for path, (letter, old) in sorted(status.items()):
        added, deleted, binary = counts.get(path, (0, 0, False))
        changes.append(FileChange(path=path, old_path=old, added=added, deleted=deleted, status=letter, binary=binary))
    return tuple(changes)


def versions_by_commit(graph: Iterable[bytes], tags: dict[str, str]) -> dict[str, str]:
    """For each commit the highest release tag it is or descends from.

    ``graph`` holds lines ``commit parent...``, parents before children. One pass, whatever the number of commits.
    """
    best: dict[str, tuple[Version, str] | None] = {}
    for line in graph:
        commit, *parents = line.decode("ascii").split()
        own = parse_version(tags[commit]) if commit in tags else None
        reached = [found for parent in parents if (found := best.get(parent))]
        if own is not None:
            reached.append((own, str(own)))
        best[commit] = max(reached, key=lambda pair: pair[0]) if reached else None
    return {commit: found[1] for commit, found in best.items() if found}


def parse_version(tag: str) -> Version | None:
    """The release version a tag names (``v1.2``, ``release-1.2``, ``pkg-1.2``), or None."""
    for text in (tag, tag.rpartition("/")[2], tag.rpartition("-")[2], tag.replace("_", ".").lstrip("relasRELAS.-")):
        try:
            return Version(text.strip().removeprefix("release").lstrip("-_"))
        except InvalidVersion:
            continue
    return None


def _commit(piece: bytes, versions: dict[str, str]) -> Commit:
    head, parents, date, message = piece[1:].rpartition(b"\x03")[0].split(b"\x02", 3)
    commit = head.decode("ascii")
    return Commit(
        id=commit,
        parent=parents.split()[0].decode("ascii") if parents.strip() else None,
        authored_at=parse_date(date.decode("ascii")),
        message=message.decode("utf-8", "replace").strip(),
        version=versions.get(commit, ""),
    )


def parse_date(text: str) -> datetime:
    """ISO 8601 to UTC. Old histories hold impossible zones and years; those become the epoch."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.fromtimestamp(0, UTC)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
