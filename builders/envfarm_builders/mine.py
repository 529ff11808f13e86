"""Revision pairs of a repository as candidates: cheap, newest first, nothing filtered yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from envfarm.core.archive import unpack
from envfarm.core.ids import task_id
from envfarm.core.ports import IssueSource, Repository
from envfarm.core.source import Candidate, Commit, FileChange, Issue, IssueKind

from .intent import housekeeping
from .split import PathKind, classify, source_paths


@runtime_checkable
class ListedRepository(Protocol):
    """What a repository may offer beyond the port, to be mined in one process and without unpacking trees."""

    def history(self, limit: int | None = None) -> Iterator[tuple[Commit, tuple[FileChange, ...]]]: ...

    def paths(self, commit: str) -> tuple[str, ...]: ...


class RepositoryMiner:
    """The ``Miner``: each commit of the first-parent line against its first parent (a merge counts as one change)."""

    def mine(self, repository: Repository, sources: Sequence[IssueSource], limit: int | None) -> Iterator[Candidate]:
        """Every pair, newest first. ``limit`` counts revisions looked at.

        Sources are asked only where both product and tests change: elsewhere the issue has kind ``none``, and the
        filter turns the candidate away before it would read it.
        """
        roots = _Roots(repository)
        pending: tuple[Commit, tuple[FileChange, ...]] | None = None
        for commit, changes in _history(repository, limit):
            if pending is not None:
                yield self._candidate(repository, sources, roots, commit, *pending)
            pending = (commit, changes) if commit.parent is not None else None

    def _candidate(
        self,
        repository: Repository,
        sources: Sequence[IssueSource],
        roots: _Roots,
        base: Commit,
        fix: Commit,
        changes: tuple[FileChange, ...],
    ) -> Candidate:
        known = roots.of(base, fix, changes)
        kinds = {change.path: _kind(change, known) for change in changes}
        source = tuple(path for path, kind in kinds.items() if kind is PathKind.source)
        tests = tuple(path for path, kind in kinds.items() if kind is PathKind.test)
        issue = None
        if source and tests:
            issue = _upkeep(repository, fix) or next(
                (found for asked in sources if (found := asked.issue(repository, base, fix))), None
            )
        return Candidate(
            id=candidate_id(repository, fix),
            repo=repository.ref,
            repo_name=repository.name,
            base_commit=base.id,
            fix_commit=fix.id,
            created_at=fix.authored_at,
            version=fix.version,
            issue=issue or Issue(kind=IssueKind.none, title=""),
            changes=changes,
            source_files=source,
            test_files=tests,
        )


def _upkeep(repository: Repository, fix: Commit) -> Issue | None:
    """The commit's own message where its first line announces upkeep. A changelog entry that the commit also touches
    would hide that from the filter. Releases of a package are no upkeep: they are what that repository is made of."""
    if repository.ref.startswith("pypi:") or not housekeeping(fix.message):
        return None
    title, _, body = fix.message.partition("\n")
    return Issue(kind=IssueKind.commit, title=title, body=body.strip(), reference=fix.id)


def candidate_id(repository: Repository, fix: Commit) -> str:
    """``pypi__jinja2-3.1.6`` for a release, ``owner__repo-1a2b3c4d`` for a commit."""
    kind, _, rest = repository.ref.partition(":")
    if kind == "pypi":
        return task_id("pypi", repository.name, fix.version)
    return task_id(_owner(rest), repository.name, fix.id[:8])


def tree_paths(repository: Repository, commit: str) -> tuple[str, ...]:
    """Names of the files at ``commit``."""
    if isinstance(repository, ListedRepository):
        return repository.paths(commit)
    return tuple(unpack(repository.tree(commit)))


def _owner(path: str) -> str:
    """``owner`` where the clone lies in a folder named ``owner+repo``; ``git`` otherwise."""
    for part in reversed(Path(path).parts):
        owner, plus, repo = part.partition("+")
        if plus and owner and repo:
            return owner
    return "git"


def _kind(change: FileChange, roots: Sequence[str]) -> PathKind:
    kind = classify(change.path, roots)
    if kind is not PathKind.source and change.old_path and classify(change.old_path, roots) is PathKind.source:
        return PathKind.source  # moved out of the product: the product changes
    return kind


def _history(repository: Repository, limit: int | None) -> Iterable[tuple[Commit, tuple[FileChange, ...]]]:
    # One more than asked for: the oldest one looked at needs its parent's data.
    more = None if limit is None else limit + 1
    if isinstance(repository, ListedRepository):
        return repository.history(more)
    return (
        (commit, repository.changes(commit.parent, commit.id) if commit.parent else ())
        for commit in repository.commits(more)
    )


class _Roots:
    """Source paths of the trees of a change, listed again only where files come or go."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known: tuple[str, tuple[str, ...]] | None = None

    def of(self, base: Commit, fix: Commit, changes: Sequence[FileChange]) -> tuple[str, ...]:
        """Of both trees, united. Walk from the newest commit to the oldest to make it cheap."""
        if self._known is None or self._known[0] != fix.id:
            self._known = (fix.id, self._list(fix.id))
        fixed = self._known[1]
        moved = any(change.status in "ADR" and change.path.endswith(".py") for change in changes)
        based = self._list(base.id) if moved else fixed
        self._known = (base.id, based)
        return fixed if fixed == based else tuple(sorted({*fixed, *based}))

    def _list(self, commit: str) -> tuple[str, ...]:
        return source_paths(tree_paths(self._repository, commit))
