"""From a ref to a repository."""

from __future__ import annotations

from pathlib import Path

from envfarm.core.errors import BuilderError, Reason

from .git import GitRepository
from .pypi import PyPIRepository


def open_repository(ref: str, cache_dir: Path) -> GitRepository | PyPIRepository:
    """Open ``pypi:name``, ``git:/path`` or a bare path. Downloads are kept below ``cache_dir``.

    Raises ``BuilderError``; see the two implementations.
    """
    kind, separator, rest = ref.partition(":")
    if separator and kind == "pypi":
        return PyPIRepository(rest.strip(), cache_dir)
    if separator and kind == "git" and rest:
        return GitRepository(rest)
    if not ref or (separator and kind.isalpha() and not Path(ref).exists()):
        raise BuilderError(
            f"'{ref}' is no repository that can be opened here.",
            reason=Reason.repository_missing,
            phase="open",
            remedy="Use pypi:NAME, git:PATH, or the path of a clone.",
        )
    return GitRepository(ref)
