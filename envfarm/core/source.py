"""Nouns of mining: issues, candidates and the reasons they are turned away."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from .base import Identified, Noun


class IssueKind(StrEnum):
    """Where a statement's text came from."""

    changelog = "changelog"
    commit = "commit"
    github = "github"
    none = "none"


class Issue(Noun):
    """What somebody wrote about a change, raw and with its provenance."""

    kind: IssueKind
    title: str
    body: str = ""
    reference: str = ""
    """Where the text was read: ``CHANGES.rst#3.1.6``, a commit id, an issue URL. Metadata, never shown to an agent."""


class Commit(Noun):
    """One revision of a repository, as far as mining needs it."""

    id: str
    parent: str | None
    authored_at: datetime
    message: str
    version: str = ""
    """Release version when the revision is (or follows) a release; empty when unknown."""


class FileChange(Noun):
    """One path of a diff between two revisions."""

    path: str
    old_path: str | None = None
    added: int = 0
    deleted: int = 0
    status: str = "M"
    """git's letter: A, M, D, R, T."""
    binary: bool = False


class Candidate(Identified):
    """A revision pair that may become a task. Carries no diff: that is read again from the repository at draft."""

    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = ("repo", "base_commit", "fix_commit", "issue")

    id: str
    """``owner__repo-key``, safe in file names, image names and Kubernetes labels (lower case, at most 120 chars)."""
    repo: str
    """The ref that opens the repository again: ``git:/path`` or ``pypi:name``."""
    repo_name: str
    base_commit: str
    fix_commit: str
    created_at: datetime
    version: str = ""
    issue: Issue
    changes: tuple[FileChange, ...]
    source_files: tuple[str, ...]
    test_files: tuple[str, ...]


class RejectReason(StrEnum):
    """Why the static filter turned a candidate away: the published table. Descriptions live beside the rules."""

    no_source = "no_source"
    no_tests = "no_tests"
    too_many_files = "too_many_files"
    too_many_lines = "too_many_lines"
    no_statement = "no_statement"
    short_statement = "short_statement"
    no_python_source = "no_python_source"
    no_behaviour_change = "no_behaviour_change"
    no_new_assertions = "no_new_assertions"
    tests_need_new_names = "tests_need_new_names"
    native_source = "native_source"
    merge_or_revert = "merge_or_revert"
    duplicate = "duplicate"
    unreadable = "unreadable"


class Rejected(Noun):
    """A candidate turned away, with the rule that did it."""

    candidate_id: str
    reason: RejectReason
    detail: str = ""
