"""The minimal harness: statement in, three tools, submission out."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from envfarm.core.errors import EnvfarmError, Reason, SandboxError, Tier
from envfarm.core.ports import Policy, Sandbox
from envfarm.core.rollout import Role, Rollout, StopReason, Submission
from envfarm.core.task import Task

from .session import Session
from .submission import snapshot, submission
from .tools import BadCall, check, run_tool

_PROMPT = """You are working in a repository at /repo. Find and mend the problem described below by changing its source
code. Tests of your own are welcome, but only changes to source files count. Call finish when you are done.

{statement}
"""


def opening(task: Task) -> str:
    """What an agent is told first: the statement, and the rules of the house."""
    return _PROMPT.format(statement=task.statement.text)


@dataclass(frozen=True)
class MinimalHarness:
    """Plays an episode with the three tools. Satisfies the ``Harness`` port.

    A policy that errs (an unknown tool, bad arguments, no call at all) is told so and goes on within its turns; that
    is its own failure and is never masked. A box that was lost ends the episode as ``infrastructure`` only when the
    box's limits were not what ended it.
    """

    turn_limit: int = 40
    time_limit_sec: float = 600.0
    tool_timeout_sec: float = 120.0
    output_chars: int = 16_000
    opening: Callable[[Task], str] = opening
    """The first message of an episode."""

    async def run(self, task: Task, sandbox: Sandbox, policy: Policy, *, seed: int = 0) -> Rollout:
        """Play one episode to its submission."""
        started, began = datetime.now(UTC), time.monotonic()
        session = Session(self.turn_limit, self.time_limit_sec)
        session.say(Role.user, self.opening(task))
        handed_in: Submission | None = None
        error = ""
        try:
            before = await snapshot(task, sandbox)
            stop = await self._episode(session, sandbox, policy)
            handed_in = submission(task, before, await snapshot(task, sandbox))
        except SandboxError as failure:  # the boundary to the box: typed, recorded in the rollout
            stop = StopReason.infrastructure if failure.tier is Tier.environment else StopReason.policy_error
            error = str(failure)
        except EnvfarmError as failure:
            if failure.reason is not Reason.archive_refused:
                raise
            stop, error = StopReason.policy_error, str(failure)
        if handed_in is None and stop is not StopReason.infrastructure:
            # what the policy did to its box cost it its work: it is graded on nothing handed in
            handed_in = Submission(task_id=task.id, task_digest=task.digest, patch="")
        return Rollout(
            id=uuid.uuid4().hex,
            task_id=task.id,
            task_digest=task.digest,
            policy=policy.name,
            turns=tuple(session.turns),
            submission=handed_in,
            stop=stop,
            error=error,
            seed=seed,
            duration_sec=time.monotonic() - began,
            started_at=started,
        )

    async def _episode(self, session: Session, sandbox: Sandbox, policy: Policy) -> StopReason:
        while True:
            if session.out_of_turns:
                return StopReason.turn_limit
            if session.out_of_time:
                return StopReason.time_limit
            try:
                turn = await session.act(policy)
            except EnvfarmError as failure:  # a budget like turns and time: what is done so far is handed in
                if failure.reason is not Reason.context_overflow:
                    raise
                return StopReason.context_limit
            if not turn.tool_calls:
                session.say(Role.user, "Call one of the tools: bash, str_replace or finish.")
                continue
            for call in turn.tool_calls:
                try:
                    if call.name == "finish":
                        check(call)
                        return StopReason.finished
                    text = await run_tool(
                        call, sandbox, timeout_sec=self.tool_timeout_sec, output_chars=self.output_chars
                    )
                except BadCall as bad:  # the policy's own error, answered as an observation
                    text = f"[error] {bad}"
                session.answer(call, text)
