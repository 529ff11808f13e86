"""The embedded engine: continuous batches, speculation by the policy's own heads, memory across turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from envfarm.core.errors import ConfigError, EngineError, Reason
from envfarm.core.ports import EngineCapabilities

from ..policy import MiMo
from ..samples import Sample
from .acceptance import Acceptance
from .batch import Batch, Row
from .controller import DraftLength
from .drafting import DraftTemperature, catch_up, draft
from .requests import Emission, Request
from .sampling import Sampling, law, uniforms, verify
from .sessions import Remembered, Sessions, as_tokens

_REWIND = 8
"""Tokens of a conversation that a new prompt may take back without all of it being computed again."""
_TUNE_EVERY = 16
"""Steps between two looks at what another draft temperature would have given."""


class EmbeddedEngine:
    """Generates with ``policy``, which is the engine's own: weights change through :meth:`update_weights` alone.

    Up to ``max_draft`` tokens are drafted for each step (0: speculation off), with ``adaptive`` as many of them as pay
    by measured time. Times differ from run to run and so, then, do draws (never their law): fixed lengths are for runs
    that must come out the same. ``remember`` bounds the tokens kept for sessions. Calls from several threads wait for
    each other, except :meth:`abort`.
    """

    def __init__(
        self,
        policy: MiMo,
        *,
        max_context: int,
        max_draft: int = 3,
        adaptive: bool = True,
        version: int = 0,
        max_batch: int = 256,
        remember: int = 1 << 20,
    ) -> None:
        heads = policy.config.num_nextn_predict_layers
        if not (0 <= max_draft <= heads and max_context > 0 and max_batch > 0):
            raise ConfigError(
                f"An engine with max_draft {max_draft}, max_context {max_context} and max_batch {max_batch} cannot be.",
                reason=Reason.config,
                phase="engine",
                remedy=f"Give 0 to {heads} drafts (one for each MTP head), and at least 1 of the others.",
            )
        self.policy = policy
        self.version = version
        self.acceptance = Acceptance(max_draft)
        """Counts since the engine began; replace it to begin anew."""
        self._max_context, self._max_draft, self._max_batch = max_context, max_draft, max_batch
        self._spare = max_draft + _REWIND
        self._length = DraftLength(max_draft) if adaptive and max_draft else None
        self._temperature = DraftTemperature(max_draft)
        # On a CPU what this thread has worked: what else the machine does must not be taken for a cost of drafts.
        on_cpu = policy.lm_head.weight.device.type == "cpu"
        self._clock = time.thread_time if on_cpu else time.perf_counter
        self._steps = 0
        self._sessions = Sessions(remember)
        self._lock = threading.Lock()
        self._ids: set[str] = set()
        self._aborted: set[str] = set()

    def check(self, request: Request) -> None:
        """Raises ``EngineError`` for a request that cannot be run at all."""
        vocabulary = self.policy.config.vocab_size
        if not request.prompt or min(request.prompt) < 0 or max(request.prompt) >= vocabulary:
            raise EngineError(
                f"The prompt of request {request.id!r} holds no token, or one outside 0..{vocabulary - 1}.",
                reason=Reason.usage,
                phase="generate",
                remedy="Encode it with the policy's own tokenizer.",
            )

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Emission]:
        """Run all of them, at most ``max_batch`` at a time; emissions come in the order of the requests.

        Raises ``EngineError`` where :meth:`check` does, or if the policy's logits are not numbers. A prompt too long
        for the engine is no error: its emission is empty and its ``finish`` is ``context``.
        """
        for request in requests:
            self.check(request)
        with self._lock:
            self._ids = {request.id for request in requests if request.id}
            try:
                return self._generate(requests)
            finally:
                self._ids = set()
                self._aborted.clear()

    def abort(self, request_id: str) -> None:
        """End that request at the next step, with what it has emitted. From any thread; unknown ids are ignored."""
        if request_id in self._ids:
            self._aborted.add(request_id)

    @torch.inference_mode()
    def score(self, samples: Sequence[Sample], sampling: Sampling) -> list[tuple[float, ...]]:
        """Log-probabilities as :attr:`Sample.logprobs` has them, from one plain pass over each sample: what
        :meth:`generate` logged is checked against it. Routes are replayed where a sample has them."""
        with self._lock:
            return [self._score(sample, sampling) for sample in samples]

    def update_weights(self, version: int, weights: MiMo | Mapping[str, Tensor]) -> None:
        """Take over weights and forget all sessions. Raises ``EngineError``, with nothing changed, where names or
        shapes differ from the policy's."""
        new = weights.state_dict() if isinstance(weights, MiMo) else weights
        own = self.policy.state_dict()
        differing = sorted(name for name in {*own, *new} if name not in own or name not in new)
        differing = differing or [name for name, tensor in own.items() if tensor.shape != new[name].shape]
        if differing:
            raise EngineError(
                f"Version {version} is not of this policy: {len(differing)} of its tensors differ, "
                f"{differing[0]!r} first.",
                reason=Reason.checkpoint_mismatch,
                phase="update_weights",
                remedy="Give the weights of a policy with the same configuration.",
            )
        with self._lock, torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(new[name])
            self.version = version
            self._sessions.clear()
            if self._length is not None:
                self._length.renew()

    def forget(self, session: str) -> None:
        """Drop what is remembered of a conversation."""
        with self._lock:
            self._sessions.forget(session)

    def capabilities(self) -> EngineCapabilities:
        """See the port."""
        return EngineCapabilities(speculation=self._max_draft > 0, update_weights=True, max_context=self._max_context)

    def state_dict(self) -> dict[str, Any]:
        """What was learned about drafting, as plain values. Sessions are not in it: they are computed again."""
        return {
            "steps": self._steps,
            "acceptance": self.acceptance.state_dict(),
            "temperature": self._temperature.state_dict(),
            "length": None if self._length is None else self._length.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, on an engine made with the same arguments."""
        self._steps = state["steps"]
        self.acceptance.load_state_dict(state["acceptance"])
        self._temperature.load_state_dict(state["temperature"])
        if self._length is not None and state["length"] is not None:
            self._length.load_state_dict(state["length"])

    def _generate(self, requests: Sequence[Request]) -> list[Emission]:
        emissions: dict[int, Emission] = {}
        waiting: deque[Row] = deque()
        for index, request in enumerate(requests):
            room = self._max_context - len(request.prompt)
            bound = "context" if room < request.max_tokens else "length"
            row = Row(request, index, as_tokens(request.prompt), min(room, request.max_tokens), bound)
            if row.limit > 0:
                waiting.append(row)
            else:
                emissions[index] = Emission((), (), (), self.version, bound)
        if not waiting:
            return [emissions[index] for index in range(len(requests))]
        longest = max(len(row.prompt) + row.limit for row in waiting) + self._max_draft
        capacity = min(self._max_batch, len(waiting))
        batch = Batch(self.policy, capacity, longest, max_draft=self._max_draft, spare=self._spare)
        while waiting or batch.rows:
            if self._aborted:
                self._drop_aborted(waiting, batch, emissions)
            arriving = [waiting.popleft() for _ in range(min(len(waiting), capacity - len(batch.rows)))]
            if arriving:
                batch.join([self._recall(row) for row in arriving])
            if batch.rows:
                self._step(batch)
                self._retire(batch, emissions)
        self._temperature.choose()
        return [emissions[index] for index in range(len(requests))]

    def _drop_aborted(self, waiting: deque[Row], batch: Batch, emissions: dict[int, Emission]) -> None:
        for row in [row for row in waiting if row.request.id in self._aborted]:
            waiting.remove(row)
            emissions[row.index] = Emission((), (), (), self.version, "abort")
        for row in batch.rows:
            if row.request.id in self._aborted:
                row.finish = "abort"
        self._retire(batch, emissions)

    def _recall(self, row: Row) -> tuple[Row, Remembered | None]:
        remembered = self._sessions.get(row.request.session)
        if remembered is not None:
            row.reused = remembered.common(row.prompt, self._spare)
        return row, remembered if row.reused else None

    def _retire(self, batch: Batch, emissions: dict[int, Emission]) -> None:
        """Turn rows that have finished into emissions, and keep what their sessions may need."""
        places = [place for place, row in enumerate(batch.rows) if row.finish]
        for place in places:
            row = batch.rows[place]
            emissions[row.index] = Emission(
                tuple(row.emitted), tuple(row.logprobs), tuple(row.supports), self.version, row.finish, row.reused,
                batch.routes_of(place),
            )  # fmt: skip
            if row.request.session is not None:
                self._sessions.put(row.request.session, batch.remembered(place, self._max_draft))
        if places:
            batch.leave(places)

    def _step(self, batch: Batch) -> None:
        """Draft, verify and append for all rows."""
        size = len(batch.rows)
        k = self._max_draft if self._length is None else self._length.choose(size)
        if k:
            self._catch_up(batch, k)
        began = self._clock()
        draws = uniforms(batch.seeds[:size], batch.emitted[:size], 2 * k + 1).to(batch.device)
        drafts = draft(self.policy, batch, self._temperature.factors, draws[:, :k])
        hidden = batch.run(0, batch.lengths[:size] - 1, torch.full((size,), k + 1))
        target = batch.laws.laws(self.policy.logits(hidden), drafts.masks())
        if not bool(torch.isfinite(target.sum())):
            raise EngineError(
                f"Version {self.version} of the policy gives logits that are not numbers.",
                reason=Reason.engine_failed,
                phase="generate",
                remedy="Go back to an earlier checkpoint.",
            )
        found = verify(drafts.tokens, drafts.laws, target, draws[:, k:])
        logprobs = target.gather(-1, found.tokens[..., None])[..., 0].log()
        before = int(batch.emitted[:size].sum())
        drafted, kept = batch.settle(found.tokens.cpu(), found.accepted.cpu(), logprobs.cpu())
        seen = Acceptance(self._max_draft)
        seen.count(drafted, kept)
        seen.emitted = int(batch.emitted[:size].sum()) - before
        self.acceptance.merge(seen)
        if self._length is not None:
            self._length.observe(size, k, self._clock() - began, seen)
        self._steps += 1
        if k and self._steps % _TUNE_EVERY == 0:
            self._temperature.observe(drafts, target, found.accepted, batch.laws)

    def _catch_up(self, batch: Batch, k: int) -> bool:
        """Before the clock of a step: what heads have missed is missed once, however many drafts are made."""
        return catch_up(self.policy, batch, k)

    def _score(self, sample: Sample, sampling: Sampling) -> tuple[float, ...]:
        places = [place for place, action in enumerate(sample.action) if action]
        found = [0.0] * len(sample.tokens)
        if not places:
            return tuple(found)
        # The last token emitted gives no logits that anything is drawn from.
        length, device = places[-1], self.policy.lm_head.weight.device
        routes = None
        if sample.routes is not None:
            layers = iter(sample.routes[None, :length].to(device, torch.long).unbind(2))
            routes = [next(layers) if routed else None for routed in self.policy.config.moe_layer_freq]
        tokens = torch.tensor(sample.tokens[:length], device=device)[None]
        hidden = self.policy.trunk(tokens, routes=routes).hidden[0]
        chosen = torch.tensor(places, device=device)
        logits = self.policy.logits(hidden[chosen - 1])
        allowed = torch.ones(logits.shape, dtype=torch.bool)
        for row, place in enumerate(places):
            support = sample.supports[place]
            if support is not None:
                allowed[row] = False
                allowed[row, list(support)] = True
        laws = law(logits, sampling, allowed.to(device))
        emitted = torch.tensor([sample.tokens[place] for place in places], device=device)
        for place, value in zip(places, laws.gather(-1, emitted[:, None])[:, 0].log().tolist(), strict=True):
            found[place] = value
        return tuple(found)
