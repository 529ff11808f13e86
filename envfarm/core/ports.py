"""Ports: what a room may ask of another, wired by a root. One contract suite for each, in ``tests/contract/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

from .base import Noun
from .box import BoxInfo, BoxSpec, ExecRequest, ExecResult, FileStat
from .environment import Environment, Recipe, TestCommand
from .rollout import Rollout, Submission, Turn
from .source import Candidate, Commit, FileChange, Issue
from .task import Task
from .verdict import TestReport, Verdict

OutputSink = Callable[[str, bytes], None]
"""Called with ``stdout`` or ``stderr`` and a chunk, as it arrives."""


class BlobStore(Protocol):
    """Content-addressed bytes. Calls block; run them in a thread where the caller is async and the blob is large."""

    def put(self, data: bytes) -> str:
        """Store and return the digest. Storing the same bytes twice is one blob."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes, checked against the digest. Raises ``StoreError`` (blob_missing, blob_corrupt)."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        ...


class Repository(Protocol):
    """A source history: a git clone, or a package's releases laid out as one."""

    @property
    def ref(self) -> str:
        """What opens it again: ``git:/path``, ``pypi:name``."""
        ...

    @property
    def name(self) -> str:
        """Short human name: ``jinja2``."""
        ...

    def commits(self, limit: int | None = None) -> Iterator[Commit]:
        """First-parent history, newest first."""
        ...

    def changes(self, base: str, fix: str) -> tuple[FileChange, ...]:
        """Paths that differ, with line counts; renames found."""
        ...

    def diff(self, base: str, fix: str, paths: Sequence[str]) -> str:
        """Unified diff (git form, binary included) restricted to ``paths``."""
        ...

    def tree(self, commit: str) -> bytes:
        """Deterministic tar of the whole tree at ``commit`` (no ``.git``)."""
        ...

    def read(self, commit: str, path: str) -> bytes | None:
        """One file at ``commit``, or None."""
        ...


class IssueSource(Protocol):
    """Where the statement of a change is read."""

    def issue(self, repository: Repository, base: Commit, fix: Commit) -> Issue | None:
        """The text about the change from ``base`` to ``fix``, or None where this source has none."""
        ...


class EnvironmentBuilder(Protocol):
    """Turns a recipe into an environment."""

    async def build(self, recipe: Recipe, tree: bytes, log: Callable[[str], None], *, repo: str = "") -> Environment:
        """Build, or return the environment already built from an equal recipe.

        ``tree`` is the tar of the source tree the install steps run on; ``repo`` the repository's short name, whose
        builds may share downloads. Raises ``BuilderError``.
        """
        ...


class Sandbox(Protocol):
    """A running box, through its agent."""

    @property
    def id(self) -> str: ...

    async def exec(
        self, request: ExecRequest, *, stdin: bytes | None = None, on_output: OutputSink | None = None
    ) -> ExecResult:
        """Run a command to its end. A command's own failure is a result; ``SandboxError`` means there is none."""
        ...

    async def put(self, path: str, archive: bytes) -> None:
        """Unpack a tar below ``path``. Entries that leave it are refused (``archive_refused``)."""
        ...

    async def get(self, path: str, *, limit_bytes: int = 256 << 20) -> bytes:
        """Tar of ``path`` (names relative to it). Links are stored as links, never followed."""
        ...

    async def stat(self, path: str) -> FileStat | None:
        """What is at ``path``, without following a last link; None if nothing is."""
        ...


class Capabilities(Noun):
    """What a provider can do on this machine; tests and ``doctor`` go by it."""

    mounts: bool = False
    network_none: bool = True
    memory_limit: bool = True
    cpu_limit: bool = True
    pids_limit: bool = True
    disk_limit: bool = True
    notes: tuple[str, ...] = ()


class SandboxProvider(Protocol):
    """Starts and ends boxes. Used as an async context manager: leaving it releases every box it still owns."""

    @property
    def name(self) -> str: ...

    def capabilities(self) -> Capabilities: ...

    async def acquire(self, spec: BoxSpec) -> Sandbox:
        """A fresh box. Raises ``ProviderError``; nothing is left behind when it does."""
        ...

    async def release(self, sandbox: Sandbox) -> None:
        """End the box and everything in it. Ending one that is gone is no error."""
        ...

    async def list(self, owner: str | None = None) -> list[BoxInfo]:
        """Boxes of this provider on this machine or cluster, whoever started them."""
        ...


class Policy(Protocol):
    """Decides the next action of an episode: a scripted baseline, or an engine behind a tokenizer."""

    @property
    def name(self) -> str: ...

    async def act(self, turns: Sequence[Turn]) -> Turn:
        """The assistant's next turn, given all before it."""
        ...


class Harness(Protocol):
    """Drives a policy through an episode in a box whose tree is in place."""

    async def run(self, task: Task, sandbox: Sandbox, policy: Policy, *, seed: int = 0) -> Rollout:
        """Play one episode to its submission. The policy's failures are typed outcomes of the rollout."""
        ...


class TestRunner(Protocol):
    """Runs a project's tests in a fresh box and reads their report. Knows nothing of pass or fail of a task."""

    async def run(
        self,
        environment: Environment,
        command: TestCommand,
        archives: Sequence[bytes],
        *,
        patch: str = "",
        removed: Sequence[str] = (),
        only: Sequence[str] = (),
        trace: Sequence[str] = (),
    ) -> TestReport:
        """Unpack ``archives`` over each other at the work directory, apply ``patch`` (unified diff), delete
        ``removed``, then run. ``only`` limits the run to those test files or ids; ``trace`` names source folders and
        files whose executed lines are recorded for each test (``TestReport.coverage``).

        What the tests can cause is in the report; ``VerifierError`` (patch_refused) means the patch did not apply.
        """
        ...


class Verifier(Protocol):
    """Judges submissions."""

    @property
    def version(self) -> str:
        """``name-number``; verdicts bind to it."""
        ...

    async def prepare(self, task: Task, environment: Environment) -> float:
        """Find out once what grading the task needs; seconds of CPU that took, 0 when it was known.

        Raises ``VerifierError`` when the task cannot be graded: its gold patch does not pass. ``grade`` does this
        itself where nobody has."""
        ...

    async def grade(self, task: Task, environment: Environment, submission: Submission) -> Verdict:
        """Judge in a fresh box. Never raises for what a subject can cause."""
        ...


class Miner(Protocol):
    """Turns a repository into candidates."""

    def mine(self, repository: Repository, sources: Sequence[IssueSource], limit: int | None) -> Iterator[Candidate]:
        """Every revision pair worth a look, newest first; the static filter comes after."""
        ...


class EngineCapabilities(Noun):
    """What an engine can do."""

    speculation: bool = False
    logprobs: bool = True
    update_weights: bool = False
    max_context: int = 0


class RolloutSource(Protocol):
    """The farm as a trainer sees it: in process, or over HTTP."""

    async def rollout(self, task_id: str, policy: Policy, *, seed: int = 0) -> Rollout:
        """One graded episode of a task in a box of its own. It has no verdict only where it stopped for
        ``infrastructure``: masked, not scored."""
        ...


class StageOutcome(StrEnum):
    """How one unit of stage work ended."""

    done = "done"
    rejected = "rejected"
    """Turned away for a reason of the item's own: the funnel's loss."""
    failed = "failed"
    """An error, with its record: quarantined once its retry budget is spent."""
