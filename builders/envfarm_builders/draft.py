"""From a candidate to a task draft: tree, trusted tests, gold patch and statement, as blobs and values."""

from __future__ import annotations

from envfarm.core.archive import pack, unpack
from envfarm.core.ports import BlobStore, Repository
from envfarm.core.source import Candidate, IssueKind
from envfarm.core.task import Statement, Task, TaskKind

from .mine import tree_paths
from .patches import binary_sources, source_diff, touched
from .split import TEST_SIDE, PathKind, classify, is_test_module, source_paths, within
from .statement import statement_text

_DOCUMENTS = frozenset({PathKind.docs, PathKind.changelog})
_EXAMPLES = (".rst", ".md", ".txt")
"""What doctest collects beside modules."""


def draft(repository: Repository, candidate: Candidate, blobs: BlobStore) -> Task:
    """Write the candidate's blobs and return the task, its environment and test lists still empty.

    The tree is the base's, with its own tests. ``tests`` holds, as of the fix, the test-side files that it touches and
    every runner configuration, its documents (their examples may be tests), and the product's binary files that it
    touches. The gold patch holds the product's text files only, each within ``source_paths``.
    """
    fixed = unpack(repository.tree(candidate.fix_commit))
    roots = source_roots(repository, candidate)
    kinds = {change.path: classify(change.path, roots) for change in candidate.changes}
    test_side = {path for path, kind in kinds.items() if kind in TEST_SIDE} | binary_sources(candidate)
    laid = test_side | {path for path, kind in kinds.items() if kind in _DOCUMENTS and path.endswith(_EXAMPLES)}
    trusted = {
        path: file for path, file in fixed.items() if path in laid or classify(path, roots) is PathKind.runner_config
    }
    removed = {change.path for change in candidate.changes if change.path in laid and change.status == "D"}
    removed |= {
        change.old_path
        for change in candidate.changes
        if change.old_path and change.old_path not in fixed and classify(change.old_path, roots) in TEST_SIDE
    }
    test_patch = repository.diff(candidate.base_commit, candidate.fix_commit, touched(candidate.changes, test_side))
    return Task(
        id=candidate.id,
        kind=_kind(candidate),
        repo=candidate.repo,
        repo_name=candidate.repo_name,
        base_commit=candidate.base_commit,
        fix_commit=candidate.fix_commit,
        created_at=candidate.created_at,
        version=candidate.version,
        statement=Statement(
            text=statement_text(candidate.issue), source=candidate.issue.kind, reference=candidate.issue.reference
        ),
        tree=blobs.put(repository.tree(candidate.base_commit)),
        tests=blobs.put(pack(trusted)),
        removed_tests=tuple(sorted(removed)),
        gold_patch=blobs.put(_encode(source_diff(repository, candidate))),
        test_patch=blobs.put(_encode(test_patch)),
        source_paths=roots,
        test_files=tuple(path for path in candidate.test_files if path in fixed and is_test_module(path)),
    )


def source_roots(repository: Repository, candidate: Candidate) -> tuple[str, ...]:
    """What a submission may touch: the base's packages and modules, and those that the fix adds."""
    based = source_paths(tree_paths(repository, candidate.base_commit))
    fixed = source_paths(tree_paths(repository, candidate.fix_commit))
    added = [root for root in fixed if any(within(path, (root,)) for path in candidate.source_files)]
    return tuple(sorted({*based, *added}))


def fixed_tree(repository: Repository, item: Candidate | Task) -> bytes:
    """Tar of the tree after the fix: environments are built from it, so that new test dependencies are there."""
    return repository.tree(item.fix_commit or item.base_commit)


def _kind(candidate: Candidate) -> TaskKind:
    if candidate.repo.startswith("pypi:"):
        return TaskKind.release
    return TaskKind.issue if candidate.issue.kind is IssueKind.github else TaskKind.commit


def _encode(diff: str) -> bytes:
    return diff.encode("utf-8", "surrogateescape")
