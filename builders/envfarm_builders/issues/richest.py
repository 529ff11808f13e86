"""Several sources as one: the text that says most."""

from __future__ import annotations

from collections.abc import Sequence

from envfarm.core.ports import IssueSource, Repository
from envfarm.core.source import Commit, Issue

from ..statement import statement_text


class RichestSource:
    """Asks every source and keeps the issue whose cleaned text is longest; of equals, the first source's."""

    def __init__(self, sources: Sequence[IssueSource]) -> None:
        self._sources = tuple(sources)

    def issue(self, repository: Repository, base: Commit, fix: Commit) -> Issue | None:
        found = [issue for source in self._sources if (issue := source.issue(repository, base, fix))]
        return max(found, key=lambda issue: len(statement_text(issue)), default=None)
