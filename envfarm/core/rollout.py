"""Nouns of rollouts: turns, submissions, rollouts and their groups."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from .base import Identified, Noun
from .verdict import Verdict


class ToolCall(Noun):
    """One action of a policy."""

    name: str
    arguments: dict[str, Any] = {}
    id: str = ""


class Role(StrEnum):
    """Who spoke."""

    system = "system"
    user = "user"
    assistant = "assistant"
    tool = "tool"


class Turn(Noun):
    """One message of a rollout. What an engine emitted stays as token ids and is never tokenised again."""

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """The target law's log-probability of each token in ``token_ids``, in nats."""
    policy_version: int | None = None


class Submission(Identified):
    """What a rollout hands in: a unified diff (git form) against the task's tree."""

    DIGEST_FIELDS: ClassVar[tuple[str, ...]] = ("task_digest", "patch")

    task_id: str
    task_digest: str
    patch: str


class StopReason(StrEnum):
    """Why a rollout ended."""

    finished = "finished"
    turn_limit = "turn_limit"
    time_limit = "time_limit"
    context_limit = "context_limit"
    """The conversation outgrew the policy's context."""
    policy_error = "policy_error"
    """The policy's output could not be used: scored as it stands, never masked."""
    infrastructure = "infrastructure"
    """Proven outside the subject's reach: masked."""


class Rollout(Noun):
    """One episode, with its turn tree, its submission and (once graded) its verdict."""

    id: str
    task_id: str
    task_digest: str
    policy: str
    policy_version: int | None = None
    turns: tuple[Turn, ...]
    submission: Submission | None = None
    verdict: Verdict | None = None
    stop: StopReason
    error: str = ""
    seed: int = 0
    duration_sec: float = 0.0
    started_at: datetime


class Group(Noun):
    """Rollouts of one task under one policy version: the unit of group-relative advantages."""

    task_id: str
    policy_version: int | None = None
    rollouts: tuple[Rollout, ...]
