"""What is asked of an engine, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from envfarm.core.ports import EngineCapabilities

from ..samples import Sample, Support
from .sampling import Sampling


class Constraint(Protocol):
    """A validity mask: which tokens may come next."""

    def allowed(self, emitted: Sequence[int]) -> Support:
        """Token ids that may follow what this request has emitted so far, never none of them; None for all."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One generation. A token's law is a function of the prompt, what was emitted, ``sampling`` and ``constraint``."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: frozenset[int] = frozenset()
    """Ids that end it; the one that did is emitted."""
    constraint: Constraint | None = None
    session: str | None = None
    """Requests of one session keep what the engine remembers of their common prefix."""
    seed: int = 0
    """Draws depend on it, and not on who else is in the batch."""
    id: str = ""
    """What ``abort`` takes."""


@dataclass(frozen=True, slots=True)
class Emission:
    """What came of a request."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token under the target's law (after mask, temperature, top-k, top-p), in nats. Never a draft's."""
    supports: tuple[Support, ...]
    version: int
    finish: str
    """``stop``, ``length`` (of the request), ``context`` (the engine's limit) or ``abort``."""
    reused: int = 0
    """Prompt tokens that were not computed again."""
    routes: Tensor | None = None
    """As in :class:`~envfarm_rl.samples.Sample`, for the prompt and what was emitted, without the last token."""


class Engine(Protocol):
    """Token-level generation with a policy's weights. One contract for the embedded engine and for servers."""

    def generate(self, requests: Sequence[Request]) -> list[Emission]:
        """All of them, as one batch or several; emissions come in the order of the requests."""
        ...

    def score(self, samples: Sequence[Sample], sampling: Sampling) -> list[tuple[float, ...]]:
        """Log-probabilities of the samples' action tokens under the law that ``sampling`` makes."""
        ...

    def abort(self, request_id: str) -> None:
        """End that request soon, with what it has emitted."""
        ...

    def update_weights(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Generate with these from now on."""
        ...

    def capabilities(self) -> EngineCapabilities:
        """What it can do."""
        ...
