"""The task: a payload for an environment, with a statement, a hidden answer and hidden tests."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from .base import Identified, Noun
from .source import IssueKind


class TaskKind(StrEnum):
    """How a task came to be."""

    release = "release"
    commit = "commit"
    issue = "issue"
    synth = "synth"


class Statement(Noun):
    """The text an agent reads."""

    text: str
    source: IssueKind
    reference: str = ""
    shown_tests: tuple[str, ...] = ()
    """Ids of fail-to-pass tests that the text shows."""


class Mutation(Noun):
    """The edit that made a synth task out of a healthy tree."""

    operator: str
    path: str
    line: int
    function: str
    original: str
    mutated: str


class Task(Identified):
    """A verifiable task. Blobs are referred to by digest.

    The tree holds neither the answer nor the hidden tests; ``tests`` is laid over it in the grading box, last.
    """

    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = (
        "id", "kind", "repo", "base_commit", "statement", "tree", "tests", "removed_tests", "gold_patch",
        "source_paths", "test_files", "fail_to_pass", "pass_to_pass", "environment_digest",
    )  # fmt: skip

    id: str
    kind: TaskKind
    repo: str
    repo_name: str
    base_commit: str
    fix_commit: str = ""
    created_at: datetime
    version: str = ""
    statement: Statement
    tree: str
    """Blob: tar of the source tree an agent starts from (public tests included, hidden ones not)."""
    tests: str
    """Blob: tar of the trusted test files and runner configuration, laid over the tree for grading."""
    removed_tests: tuple[str, ...] = ()
    """Test-side paths that the fix deletes; absent while grading."""
    gold_patch: str
    """Blob: unified diff (git form) of declared source paths only, against ``tree``."""
    test_patch: str = ""
    """Blob: unified diff of the test side, for export. Grading uses ``tests``."""
    source_paths: tuple[str, ...]
    """What a submission may touch: folders (ending in ``/``) and files, relative to the tree."""
    test_files: tuple[str, ...]
    """Test files that the fix touches: run first."""
    mutation: Mutation | None = None
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    environment_digest: str = ""
    """Set, like the two test lists, once validation succeeded."""

    @property
    def ref(self) -> str:
        """``id@sha256:...``: what certificates, verdicts and rollouts bind to."""
        return f"{self.id}@{self.digest}"
