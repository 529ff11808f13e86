"""The sequences that are being generated: their tokens, memory and bookkeeping, dense in rows 0, 1, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from envfarm.core.errors import EngineError, Reason

from ..policy import MiMo
from ..samples import Support
from .memory import Memory
from .requests import Request
from .sampling import Mixed
from .sessions import Remembered

_PASS_TOKENS, _SHORTEST, _LONGEST = 8192, 32, 512
"""Tokens of a prefill pass, over all rows and in each: they bound the memory that attention takes."""


@dataclass(slots=True)
class Row:
    """One request on its way."""

    request: Request
    index: int
    """Its place among what was asked for."""
    prompt: Tensor
    """[P] on the CPU."""
    limit: int
    """Tokens that it may emit, ..."""
    bound: str
    """... and the ``finish`` of one that emits so many."""
    reused: int = 0
    high: int = 0
    """See :class:`Remembered`."""
    emitted: list[int] = field(default_factory=list)
    """Under a constraint, within a step, with this step's drafts behind it."""
    logprobs: list[float] = field(default_factory=list)
    supports: list[Support] = field(default_factory=list)
    finish: str = ""
    _asked: list[Support] = field(default_factory=list)

    def support(self) -> Support:
        """What the next token, after what was emitted and drafted, is drawn from."""
        constraint, asked = self.request.constraint, None
        # What follows a stop token is thrown away, and is no sequence that a constraint knows.
        if constraint is not None and self.request.stop.isdisjoint(self.emitted[len(self.logprobs) :]):
            asked = constraint.allowed(self.emitted)
            if asked is not None and not asked:
                raise EngineError(
                    f"The constraint of request {self.request.id!r} allows no token after {len(self.emitted)} of them.",
                    reason=Reason.usage,
                    phase="generate",
                    remedy="Let it end with a stop token.",
                )
        self._asked.append(asked)
        return asked

    def absorb(self, tokens: list[int], logprobs: list[float]) -> int:
        """Take what a verification gave up to the end of the request; how many tokens that was."""
        before = len(self.logprobs)
        tokens = tokens[: self.limit - before]
        stop = self.request.stop
        if stop and not stop.isdisjoint(tokens):
            tokens = tokens[: next(place for place, token in enumerate(tokens) if token in stop) + 1]
            self.finish = "stop"
        self.emitted[before:] = tokens
        self.logprobs += logprobs[: len(tokens)]
        self.supports += self._asked[: len(tokens)] if self._asked else [None] * len(tokens)
        self._asked.clear()
        if not self.finish and len(self.emitted) == self.limit:
            self.finish = self.bound
        return len(tokens)


def _twins(arrivals: Sequence[tuple[Row, Remembered | None]]) -> dict[int, Row]:
    """By ``id``, rows with nothing remembered that have the prompt of an earlier such row, and that row."""
    firsts: dict[tuple[int, ...], Row] = {}
    twins: dict[int, Row] = {}
    for row, remembered in arrivals:
        if remembered is None:
            other = firsts.setdefault(tuple(row.prompt.tolist()), row)
            if other is not row:
                twins[id(row)] = other
    return twins


class Batch:
    """Up to ``capacity`` rows of up to ``length`` tokens, drafts included.

    Between steps row ``b`` has ``lengths[b]`` tokens, of which all but the last have gone through the trunk, and
    ``caught[b, j]`` positions of head ``j`` hold what the tokens now known give.
    """

    def __init__(self, policy: MiMo, capacity: int, length: int, *, max_draft: int, spare: int) -> None:
        config, weight = policy.config, policy.lm_head.weight
        self._policy, self.device = policy, weight.device
        self.rows: list[Row] = []
        self.memory = Memory(
            config, capacity, spare=spare, heads=max_draft, slots=min(length, 256), dtype=weight.dtype,
            device=weight.device,
        )  # fmt: skip
        self.tokens = torch.zeros(capacity, length, dtype=torch.long, device=weight.device)
        self.lengths = torch.zeros(capacity, dtype=torch.long)
        self.caught = torch.zeros(capacity, max_draft, dtype=torch.long)
        self.seeds = torch.zeros(capacity, dtype=torch.long)
        self.emitted = torch.zeros(capacity, dtype=torch.long)
        self.laws = Mixed(())
        self.constrained = False
        layers = sum(config.moe_layer_freq)
        # One place more takes what padding gives.
        shape = capacity, length + 1, layers, config.num_experts_per_tok
        self.routes = torch.empty(shape, dtype=torch.uint8) if layers else None

    def join(self, arrivals: Sequence[tuple[Row, Remembered | None]]) -> None:
        """Take in rows, with what is remembered of their first ``row.reused`` tokens, and run the trunk over the rest
        of their prompts but the last token. Of several that have the same prompt, as those of a group have, it runs
        over one."""
        first = len(self.rows)
        twins = _twins(arrivals)
        for row, _ in arrivals:
            if id(row) in twins:
                row.reused = len(row.prompt) - 1
        arrivals = sorted(arrivals, key=lambda each: each[0].reused - len(each[0].prompt))
        rows = [row for row, _ in arrivals]
        self.rows += rows
        new = slice(first, len(self.rows))
        prompts = pad_sequence([row.prompt for row in rows], batch_first=True)
        self.tokens[new, : prompts.shape[1]] = prompts.to(self.device)
        self.lengths[new] = torch.tensor([len(row.prompt) for row in rows])
        self.seeds[new] = torch.tensor([(row.request.seed + 2**63) % 2**64 - 2**63 for row in rows])
        self.emitted[new] = self.caught[new] = 0
        for place, (row, remembered) in enumerate(arrivals, first):
            if remembered is not None:
                self._restore(place, row, remembered)
        todo, done = self.lengths[new] - 1 - torch.tensor([row.reused for row in rows]), 0
        while count := int((todo > done).sum()):
            piece = max(_SHORTEST, min(_LONGEST, _PASS_TOKENS // count))
            starts = self.lengths[first : first + count] - 1 - todo[:count] + done
            self.run(first, starts, (todo[:count] - done).clamp_max(piece))
            done += piece
        self._follow(first, twins)
        self._regroup()

    def _follow(self, first: int, twins: Mapping[int, Row]) -> None:
        """Rows from ``first`` on that have a twin get what was computed for it."""
        places = {id(row): place for place, row in enumerate(self.rows[first:], first)}
        pairs = [(places[id(twin)], places[row]) for row, twin in twins.items()]
        if not pairs:
            return
        source, target = torch.tensor(pairs).unbind(1)
        self.memory.move(source.to(self.device), target.to(self.device))
        if self.routes is not None:
            self.routes[target] = self.routes[source]

    def _restore(self, place: int, row: Row, remembered: Remembered) -> None:
        self.memory.load(place, len(remembered.tokens), remembered.state)
        row.high = remembered.high
        if row.reused == len(remembered.tokens):
            # A head's last positions have read tokens after those reused, which may be others now.
            caught = torch.tensor(remembered.caught, dtype=torch.long)
            self.caught[place] = caught.minimum(row.reused - 1 - torch.arange(len(caught))).clamp_min(0)
        if self.routes is not None and remembered.routes is not None:
            self.routes[place, : row.reused] = remembered.routes[: row.reused]

    def run(self, first: int, starts: Tensor, counts: Tensor) -> Tensor:
        """The trunk over ``counts`` [R] tokens after ``starts`` [R], rows ``first``, ...: states [R, T, width]."""
        positions = self.memory.begin(first, starts, counts)
        tokens = self.tokens[first : first + len(starts)].gather(1, positions.clamp_min(0))
        out = self._policy.trunk(tokens, positions, self.memory.trunk)
        self.memory.remember(out.hidden)
        if self.routes is not None:
            taken = torch.stack([route for route in out.routes if route is not None], dim=2)
            # Padding has position -1: the last place.
            self.routes[torch.arange(first, first + len(starts))[:, None], positions.cpu()] = taken.to(
                "cpu", torch.uint8
            )
        return out.hidden

    def allowed(self) -> Tensor | None:
        """Which tokens [B, V] may follow what each row has emitted and drafted; None where no row is constrained."""
        if not self.constrained:
            return None
        places: list[int] = []
        ids: list[int] = []
        free = torch.ones(len(self.rows), 1, dtype=torch.bool)
        for place, row in enumerate(self.rows):
            if row.request.constraint is not None and (support := row.support()) is not None:
                free[place] = False
                places += [place] * len(support)
                ids += support
        if not places:
            return None
        mask = free.expand(-1, self._policy.config.vocab_size).clone()
        mask[places, ids] = True
        return mask.to(self.device)

    def behind(self, heads: int) -> Tensor:
        """How many positions [B] the first ``heads`` heads must be run over to draft, the query among them; older ones
        than their window are not needed."""
        size = len(self.rows)
        caught = self.caught[:size, :heads].amin(1)
        return (self.lengths[:size] - 1 - caught).clamp_max(self._policy.config.window)

    def embedded(self, first: int, positions: Tensor, depth: int) -> Tensor:
        """What head ``depth`` (from 0) reads at ``positions`` [R, T] of rows ``first``, ...: [R, T, width]."""
        tokens = self.tokens[first : first + len(positions)]
        return self._policy.embed(tokens.gather(1, positions + 1 + depth))

    def drafted(self, tokens: Tensor, depth: int) -> None:
        """Note the drafts [B] at ``depth`` (from 0)."""
        size = len(self.rows)
        self.tokens[torch.arange(size), self.lengths[:size] + depth] = tokens
        if self.constrained:
            for row, token in zip(self.rows, tokens.tolist(), strict=True):
                if row.request.constraint is not None:
                    row.emitted.append(token)

    def settle(self, tokens: Tensor, accepted: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """Append what a verification gave: ``tokens`` and ``logprobs`` [B, k + 1], of which ``accepted`` [B] and one
        more hold, all on the CPU. Gives drafts tried and accepted [B], those after a request's end left out."""
        size, k = len(self.rows), tokens.shape[1] - 1
        before = self.lengths[:size].clone()
        self.tokens[:size].scatter_(1, (before[:, None] + torch.arange(k + 1)).to(self.device), tokens.to(self.device))
        steps = zip(self.rows, tokens.tolist(), (accepted + 1).tolist(), logprobs.tolist(), strict=True)
        taken = torch.tensor([row.absorb(new[:count], each[:count]) for row, new, count, each in steps])
        whole = taken == accepted + 1
        drafted, kept = torch.where(whole, k, taken), torch.where(whole, accepted, taken)
        self.lengths[:size] += taken
        self.emitted[:size] += taken
        # Head j has read drafts at its last j positions: what it holds of the refused ones must be computed again.
        depth = torch.arange(k)
        self.caught[:size, :k] = (before[:, None] - 1 - depth + kept[:, None].minimum(depth)).clamp_min(0)
        return drafted, kept

    def remembered(self, place: int, max_draft: int) -> Remembered:
        """What a later turn can start from."""
        row, known = self.rows[place], int(self.lengths[place]) - 1
        return Remembered(
            self.tokens[place, :known].to("cpu", copy=True),
            max(row.high, known + max_draft),
            self.caught[place].tolist(),
            self.memory.save(place, known),
            self.routes_of(place),
        )

    def routes_of(self, place: int) -> Tensor | None:
        """Routes of a row's tokens but the last, uint8 [n - 1, layers with experts, top_k]."""
        return None if self.routes is None else self.routes[place, : int(self.lengths[place]) - 1].clone()

    def leave(self, places: Sequence[int]) -> None:
        """Drop rows; the last ones move into their places."""
        size, gone = len(self.rows) - len(places), set(places)
        holes = [place for place in places if place < size]
        if holes:
            movers = [place for place in range(size, len(self.rows)) if place not in gone]
            source, target = torch.tensor(movers), torch.tensor(holes)
            self.memory.move(source.to(self.device), target.to(self.device))
            kept = (self.tokens, self.lengths, self.caught, self.seeds, self.emitted)
            for tensor in kept if self.routes is None else (*kept, self.routes):
                tensor[target.to(tensor.device)] = tensor[source.to(tensor.device)]
            for mover, hole in zip(movers, holes, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[size:]
        self._regroup()

    def _regroup(self) -> None:
        self.laws = Mixed.of([row.request.sampling for row in self.rows], self.device)
        self.constrained = any(row.request.constraint is not None for row in self.rows)
