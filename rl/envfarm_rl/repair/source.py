"""Repair episodes for a trainer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from envfarm.core.ids import stable_seed

from ..agent import EnginePolicy, Generates
from ..engine.embedded import EmbeddedEngine
from ..engine.sampling import Sampling
from ..episodes import AgentSource, EpisodePlayer
from ..text.tokenizer import TinyTokenizer
from .problem import Problem
from .whole import WholeEdits
from .world import TOOLS, ValidCalls

ANSWER_TOKENS = 160
"""Most tokens of one answer; a valid one is far shorter."""


def repair_policy(
    engine: Generates,
    tokenizer: TinyTokenizer,
    problem: Problem,
    *,
    key: str,
    seed: int,
    sampling: Sampling,
    runs: int,
    law: Tensor | None = None,
) -> EnginePolicy:
    """The policy of one episode: its answers are drawn under the validity mask. With the ``law`` [edits] of the page's
    first answers, edits are drawn as wholes from that."""
    calls = ValidCalls(tokenizer, problem, runs)
    return EnginePolicy(
        engine=engine,
        tokenizer=tokenizer,
        key=key,
        tools=TOOLS,
        sampling=sampling,
        valid=calls if law is None else WholeEdits(calls, law, sampling.temperature, stable_seed(seed, key)),
        max_tokens=ANSWER_TOKENS,
        seed=seed,
        name="mimo-tiny",
        declare=False,
    )


def repair_source(
    *,
    engine: EmbeddedEngine,
    sampling: Sampling,
    tokenizer: TinyTokenizer,
    problems: Mapping[str, Problem],
    player: EpisodePlayer,
    runs: int = 0,
    concurrency: int = 1024,
) -> AgentSource:
    """``runs`` is an episode's budget of test runs, 0 for one edit and no look at it."""

    def make(service: Generates, task: str, key: str, seed: int) -> EnginePolicy:
        return repair_policy(service, tokenizer, problems[task], key=key, seed=seed, sampling=sampling, runs=runs)

    return AgentSource(engine=engine, tasks=sorted(problems), player=player, make=make, concurrency=concurrency)
