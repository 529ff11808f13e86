"""Where the text of a change is read."""

from __future__ import annotations

from envfarm.core.ports import IssueSource

from .changelog import ChangelogSource
from .commits import CommitMessageSource
from .richest import RichestSource

__all__ = ["ChangelogSource", "CommitMessageSource", "RichestSource", "default_sources"]


def default_sources() -> tuple[IssueSource, ...]:
    """What works with no service: changelog entry or commit message, whichever says more."""
    return (RichestSource((ChangelogSource(), CommitMessageSource())),)
