"""A policy of the harness that is an engine behind a tokenizer: turns in, tool calls out, every token kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from envfarm.core.errors import EngineError, Reason, Tier
from envfarm.core.ids import stable_seed
from envfarm.core.rollout import Role, Turn

from .chains.session import Chain
from .engine.requests import Constraint, Emission, Request
from .engine.sampling import Sampling
from .text.chat import END, Piece, render, suffix
from .text.toolcalls import ToolCallError, parse


class Tokenizer(Protocol):
    """What an agent needs of one."""

    def encode(self, pieces: str | Iterable[Piece]) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def control(self, text: str) -> int: ...


class Generates(Protocol):
    """An engine as one episode sees it."""

    async def generate(self, request: Request) -> Emission: ...


@dataclass
class EnginePolicy:
    """One episode's policy; satisfies the ``Policy`` port.

    ``key`` names the episode: its requests share a session and their seeds follow from it and ``seed``. ``valid`` gives
    the validity mask of the next answer from the turns so far; None for none. An answer that cannot be read goes to the
    harness as text, which tells the policy so. Raises ``EngineError`` (context_overflow, tier policy) when the
    conversation has outgrown the engine.
    """

    engine: Generates
    tokenizer: Tokenizer
    key: str
    tools: Sequence[dict[str, Any]] = ()
    sampling: Sampling = field(default_factory=Sampling)
    valid: Callable[[Sequence[Turn]], Constraint | None] = lambda turns: None
    max_tokens: int = 256
    seed: int = 0
    name: str = "mimo"
    declare: bool = True
    """Whether the tools are told of in the prompt. A tiny policy is told of none: it has seen nothing else."""
    chain: Chain = field(default_factory=Chain)
    """What was heard and emitted so far: what training reads."""
    reused: int = 0
    """Prompt tokens that the engine did not compute again, over all turns."""

    async def act(self, turns: Sequence[Turn]) -> Turn:
        """The next turn; the tokens of all before it are taken from the chain, never made again from text."""
        taken = sum(turn.role is Role.assistant for turn in turns)
        self.chain.hear(self.tokenizer.encode(self._new(turns)))
        emission = await self.engine.generate(
            Request(
                prompt=tuple(self.chain.tokens),
                max_tokens=self.max_tokens,
                sampling=self.sampling,
                stop=frozenset({self.tokenizer.control(END.text)}),
                constraint=self.valid(turns),
                session=self.key,
                seed=stable_seed(self.seed, self.key, taken),
                id=f"{self.key}/{taken}",
            )
        )
        self.chain.emit(emission)
        self.reused += emission.reused
        if emission.finish == "context":
            raise EngineError(
                f"The conversation of {self.key} has outgrown the policy's context.",
                reason=Reason.context_overflow,
                phase="act",
                tier=Tier.policy,
            )
        return self._turn(emission)

    def _new(self, turns: Sequence[Turn]) -> list[Piece]:
        last = max((at for at, turn in enumerate(turns) if turn.role is Role.assistant), default=None)
        if last is not None:
            return suffix(turns[last + 1 :])
        if self.declare:
            return render(turns, self.tools)
        return render([Turn(role=Role.system), *turns])

    def _turn(self, emission: Emission) -> Turn:
        said = self.tokenizer.decode(emission.tokens)
        turn = Turn(
            role=Role.assistant,
            token_ids=emission.tokens,
            logprobs=emission.logprobs,
            policy_version=emission.version,
        )
        try:
            calls = parse(said, self.tools)
        except ToolCallError:  # the policy's own failure: the harness answers it
            calls = []
        return turn.model_copy(update={"tool_calls": tuple(calls)} if calls else {"text": said.removesuffix(END.text)})
