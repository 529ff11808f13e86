"""Unified diffs as values: which side of a change they hold, and a fingerprint for duplicates."""

from __future__ import annotations

from collections.abc import Iterable

from envfarm.core.base import digest_bytes
from envfarm.core.ports import Repository
from envfarm.core.source import Candidate, FileChange


def touched(changes: Iterable[FileChange], paths: Iterable[str]) -> tuple[str, ...]:
    """``paths`` with the names that they had before, where they were renamed: what a diff of them must name."""
    wanted = set(paths)
    found = {change.old_path for change in changes if change.path in wanted and change.old_path}
    return tuple(sorted(wanted | found))


def source_diff(repository: Repository, candidate: Candidate) -> str:
    """The product's side of a candidate as a unified diff: its text files, which are all that an answer can hold."""
    binary = binary_sources(candidate)
    text = [path for path in candidate.source_files if path not in binary]
    return repository.diff(candidate.base_commit, candidate.fix_commit, touched(candidate.changes, text))


def binary_sources(candidate: Candidate) -> frozenset[str]:
    """Product files that no text patch can express: they come with the trusted files instead."""
    source = set(candidate.source_files)
    return frozenset(change.path for change in candidate.changes if change.binary and change.path in source)


def fingerprint(diff: str) -> str:
    """Equal for diffs that add and delete the same lines in the same files, wherever in them."""
    lines = [
        line.rstrip()
        for line in diff.splitlines()
        if line.startswith(("+", "-")) and line[1:].strip() and not line.startswith("index ")
    ]
    return digest_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
