"""The vocabulary of failure: one class for each boundary crossed, each with phase, reason and tier.

Classify once, at the boundary; record once; never swallow. ``str(error)`` is one clear sentence for a person and
``remedy`` says what to do about it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from .base import Noun


class Tier(StrEnum):
    """Whose failure it is. Only ``environment`` is ever masked in training, and only when the evidence lies outside
    the graded system's reach."""

    environment = "environment"
    task = "task"
    policy = "policy"
    ambiguous = "ambiguous"


class Reason(StrEnum):
    """Stable slugs, used in tables, metrics and API answers."""

    # provider and sandbox
    no_bubblewrap = "no_bubblewrap"
    no_user_namespaces = "no_user_namespaces"
    no_agent = "no_agent"
    box_start_failed = "box_start_failed"
    box_lost = "box_lost"
    box_not_found = "box_not_found"
    wall_limit = "wall_limit"
    memory_limit = "memory_limit"
    disk_limit = "disk_limit"
    protocol = "protocol"
    archive_refused = "archive_refused"
    path_unusable = "path_unusable"
    capacity = "capacity"
    image = "image"
    node = "node"
    timeout = "timeout"
    # builder
    repository_missing = "repository_missing"
    repository_broken = "repository_broken"
    package_unknown = "package_unknown"
    no_sdist = "no_sdist"
    sdist_broken = "sdist_broken"
    sdist_unsafe = "sdist_unsafe"
    no_tests = "no_tests"
    index_unreachable = "index_unreachable"
    no_toolchain = "no_toolchain"
    resolve_failed = "resolve_failed"
    install_failed = "install_failed"
    install_timeout = "install_timeout"
    collect_failed = "collect_failed"
    tests_mostly_fail = "tests_mostly_fail"
    # verifier
    suite_timeout = "suite_timeout"
    suite_crash = "suite_crash"
    patch_refused = "patch_refused"
    # store
    schema_mismatch = "schema_mismatch"
    disk_full = "disk_full"
    lease_lost = "lease_lost"
    blob_missing = "blob_missing"
    blob_corrupt = "blob_corrupt"
    store_unreachable = "store_unreachable"
    # harness and engine
    policy_output = "policy_output"
    engine_failed = "engine_failed"
    context_overflow = "context_overflow"
    # clusters
    cluster_unreachable = "cluster_unreachable"
    cluster_failed = "cluster_failed"
    no_cluster = "no_cluster"
    credentials_refused = "credentials_refused"
    forbidden = "forbidden"
    quota = "quota"
    conflict = "conflict"
    expired = "expired"
    invalid = "invalid"
    throttled = "throttled"
    # training
    not_finite = "not_finite"
    batch_unusable = "batch_unusable"
    # policies and their checkpoints
    checkpoint_missing = "checkpoint_missing"
    checkpoint_corrupt = "checkpoint_corrupt"
    checkpoint_mismatch = "checkpoint_mismatch"
    checkpoint_unwritable = "checkpoint_unwritable"
    # everything else
    config = "config"
    usage = "usage"
    not_found = "not_found"
    interrupted = "interrupted"
    internal = "internal"


class FailureRecord(Noun):
    """An error as data: what is written to the store and shown on pages."""

    boundary: str
    phase: str
    reason: Reason
    tier: Tier
    message: str
    detail: str = ""


class EnvfarmError(Exception):
    """Base of every expected failure.

    ``retryable`` says whether the same call may succeed later; the worker retries those within the item's budget.
    """

    boundary: ClassVar[str] = "envfarm"
    default_tier: ClassVar[Tier] = Tier.ambiguous

    def __init__(
        self,
        message: str,
        *,
        reason: Reason,
        phase: str = "",
        tier: Tier | None = None,
        remedy: str = "",
        detail: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.phase = phase
        self.tier = tier or self.default_tier
        self.remedy = remedy
        self.detail = detail
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def record(self) -> FailureRecord:
        """The error as data. ``detail`` (a log's tail, say) keeps its last 8,000 characters."""
        return FailureRecord(
            boundary=self.boundary,
            phase=self.phase,
            reason=self.reason,
            tier=self.tier,
            message=str(self),
            detail=self.detail[-8000:],
        )


class ConfigError(EnvfarmError):
    """A configuration or an argument that cannot be used. Exit code 2."""

    boundary = "config"
    default_tier = Tier.environment


class ProviderError(EnvfarmError):
    """A box could not be started, found or ended."""

    boundary = "provider"
    default_tier = Tier.environment


class Refused(ProviderError):
    """No box can be had now: ``capacity``, ``quota``, ``image``, ``node`` or ``timeout`` says why."""

    def __init__(self, message: str, *, reason: Reason, retry_sec: float, remedy: str = "", detail: str = "") -> None:
        super().__init__(message, reason=reason, phase="acquire", remedy=remedy, detail=detail, retryable=True)
        self.retry_sec = retry_sec
        """When asking again may help."""


class SandboxError(EnvfarmError):
    """A call into a running box did not give a result."""

    boundary = "sandbox"


class ClusterError(EnvfarmError):
    """A Kubernetes API server refused a call or did not answer it."""

    boundary = "cluster"
    default_tier = Tier.environment

    def __init__(
        self,
        message: str,
        *,
        reason: Reason,
        phase: str = "",
        tier: Tier | None = None,
        remedy: str = "",
        detail: str = "",
        retryable: bool = False,
        code: int = 0,
        status: str = "",
    ) -> None:
        super().__init__(
            message, reason=reason, phase=phase, tier=tier, remedy=remedy, detail=detail, retryable=retryable
        )
        self.code = code
        """HTTP status; 0 where there was no answer."""
        self.status = status
        """The server's own word: ``AlreadyExists``, ``NotFound``."""


class HarnessError(EnvfarmError):
    """The agent harness failed; a policy's own bad output is a typed outcome, not this."""

    boundary = "harness"


class EngineError(EnvfarmError):
    """The inference engine failed."""

    boundary = "engine"
    default_tier = Tier.environment


class TrainerError(EnvfarmError):
    """A policy could not be trained, saved or loaded."""

    boundary = "trainer"
    default_tier = Tier.environment


class VerifierError(EnvfarmError):
    """Tests could not be run to a report."""

    boundary = "verifier"


class BuilderError(EnvfarmError):
    """A repository could not be read, or an environment not be built."""

    boundary = "builder"
    default_tier = Tier.task


class StoreError(EnvfarmError):
    """State could not be read or written."""

    boundary = "store"
    default_tier = Tier.environment
