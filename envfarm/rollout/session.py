"""A rollout's record: every turn once, in order, with what the engine emitted kept as it came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from envfarm.core.ports import Policy
from envfarm.core.rollout import Role, ToolCall, Turn


@dataclass
class Session:
    """Holds the turns of one episode and its budget.

    ``turn_limit`` counts assistant turns; ``time_limit_sec`` is wall time since the session was made. A turn's token
    ids are kept as the engine gave them and are never made again from text.
    """

    turn_limit: int = 40
    time_limit_sec: float = 600.0
    _turns: list[Turn] = field(default_factory=list[Turn])
    _started: float = field(default_factory=time.monotonic)

    @property
    def turns(self) -> Sequence[Turn]:
        """All turns so far, oldest first."""
        return tuple(self._turns)

    @property
    def elapsed_sec(self) -> float:
        """Wall time since the session began."""
        return time.monotonic() - self._started

    @property
    def out_of_turns(self) -> bool:
        """Whether the policy has had all its turns."""
        return sum(turn.role is Role.assistant for turn in self._turns) >= self.turn_limit

    @property
    def out_of_time(self) -> bool:
        """Whether the episode's wall time is spent."""
        return self.elapsed_sec >= self.time_limit_sec

    def say(self, role: Role, text: str) -> None:
        """Append a message that no engine made."""
        self._turns.append(Turn(role=role, text=text))

    def answer(self, call: ToolCall, text: str) -> None:
        """Append a tool's observation."""
        self._turns.append(Turn(role=Role.tool, text=text, tool_call_id=call.id))

    async def act(self, policy: Policy) -> Turn:
        """Ask the policy for its next turn and record it."""
        turn = await policy.act(self.turns)
        if turn.role is not Role.assistant:
            raise ValueError(f"policy {policy.name!r} answered as {turn.role}, not as the assistant")
        self._turns.append(turn)
        return turn
