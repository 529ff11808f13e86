"""Capture of an episode: what the engine emitted is kept token for token, and trained once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.requests import Emission
from ..samples import Sample, Support
from .packing import NO_ROUTE


class Chain:
    """Tokens heard and emitted in turn. The next prompt is exactly ``tokens`` and what is heard after them: nothing
    that was emitted is ever tokenised again."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._action: list[bool] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._supports: list[Support] = []
        self._routes: Tensor | None = None

    def extends(self, prompt: Sequence[int]) -> bool:
        """Whether ``prompt`` begins with all of this chain's tokens."""
        return list(prompt[: len(self.tokens)]) == self.tokens

    def hear(self, ids: Sequence[int]) -> None:
        """Append tokens that the policy did not emit."""
        count = len(ids)
        self._append(ids, [False] * count, [0.0] * count, [-1] * count, [None] * count)

    def emit(self, emission: Emission) -> None:
        """Append what the engine gave for the prompt ``tokens``."""
        count = len(emission.tokens)
        self._append(
            emission.tokens, [True] * count, emission.logprobs, [emission.version] * count, emission.supports
        )  # fmt: skip
        if emission.routes is not None:
            # What an earlier turn took is what its tokens were drawn with: a later prefill may differ from it.
            known = self._routes
            self._routes = emission.routes if known is None else torch.cat((known, emission.routes[len(known) :]))

    def sample(self) -> Sample:
        """The chain up to its last action token: nothing is learned from what came after."""
        end = max((place + 1 for place, action in enumerate(self._action) if action), default=0)
        routes = self._routes
        if routes is not None:
            last = routes.new_full((1, *routes.shape[1:]), NO_ROUTE)
            routes = torch.cat((routes[: end - 1], last))
        return Sample(
            tuple(self.tokens[:end]), tuple(self._action[:end]), tuple(self._logprobs[:end]),
            tuple(self._versions[:end]), tuple(self._supports[:end]), routes,
        )  # fmt: skip

    @property
    def trained(self) -> bool:
        """Whether it holds an action token."""
        return any(self._action)

    def _append(
        self,
        tokens: Sequence[int],
        action: Sequence[bool],
        logprobs: Sequence[float],
        versions: Sequence[int],
        supports: Sequence[Support],
    ) -> None:
        self.tokens.extend(tokens)
        self._action.extend(action)
        self._logprobs.extend(logprobs)
        self._versions.extend(versions)
        self._supports.extend(supports)


class Session:
    """The chains of one episode. A prompt that does not go on from one of them begins another, in which everything
    heard is context: an action token belongs to the chain that it was emitted in, and to no other."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []

    def turn(self, prompt: Sequence[int], emission: Emission) -> Chain:
        """Record one generation, in the longest chain that ``prompt`` goes on from."""
        fitting = [chain for chain in self.chains if chain.extends(prompt)]
        if fitting:
            chain = max(fitting, key=lambda each: len(each.tokens))
        else:
            chain = Chain()
            self.chains.append(chain)
        chain.hear(prompt[len(chain.tokens) :])
        chain.emit(emission)
        return chain

    def samples(self) -> tuple[Sample, ...]:
        """Of all chains that hold an action token."""
        return tuple(chain.sample() for chain in self.chains if chain.trained)
