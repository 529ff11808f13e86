"""What an engine remembers of a batch: keys and values of each layer, constant in size for window layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..policy import GLOBAL, WINDOW, MiMoConfig
from ..policy.attention import EMPTY


class Slots:
    """Where layers of one kind keep which position, worked out once for each pass and not once for each layer.

    Position ``p`` lies in slot ``p``, or ``p % size`` in a ring. So what a slot holds follows from a sequence's length
    alone, and taking tokens back costs nothing: later positions are out of a query's sight until they are overwritten.
    In a ring what they have overwritten lies ``size`` before them, out of the window of any query that may still come
    if at most ``size - window`` tokens are taken back.
    """

    def __init__(self, size: int, *, groups: int, window: int | None) -> None:
        self.size = size
        self._groups, self._window = groups, window
        self.first = self.used = 0
        """First row of the pass, and slots that any of its queries may need."""
        self.rows = self.places = self.seen = self.lines = torch.zeros(0)
        self.joins = False
        """Whether queries read what was held beside what is new: a long pass overwrites what its own first queries
        need."""

    def reserve(self, size: int) -> None:
        """Have at least that many slots. Not for a ring."""
        if size > self.size:
            self.size = max(size, 2 * self.size)

    def begin(self, first: int, starts: Tensor, counts: Tensor, positions: Tensor) -> None:
        """Rows ``first``, ... go on from lengths ``starts`` [R] by ``counts`` [R] (both on the CPU) at ``positions``
        [R, T] (:data:`EMPTY` beyond the count)."""
        device, ends = positions.device, starts + counts
        self.first = first
        self.rows = torch.arange(first, first + len(starts), device=device)[:, None]
        if self._window is None:
            self.used = int(ends.max())
            self.reserve(self.used)
            self.places = torch.where(positions == EMPTY, self.size, positions)
            # A slot's own number is its position; what lies beyond a row's end is later than all its queries.
            self.seen = torch.arange(self.used, device=device).expand(len(starts), -1)
            self._find_lines()
            return
        self.joins = positions.shape[1] > self.size - self._window + 1
        held = starts if self.joins else ends
        self.used = min(self.size, int(held.max()) if self.joins else max(1, int(held.max())))
        newest = held[:, None] - 1
        # The latest position before the end that falls into the slot; negative where there is none.
        self.seen = (newest - (newest - torch.arange(self.used)) % self.size).to(device)
        unkept = positions == EMPTY
        if self.joins:
            self.seen = torch.cat((self.seen, positions), dim=1)
            unkept = unkept | (positions < (ends - self.size).to(device)[:, None])
        self.places = torch.where(unkept, self.size, positions % self.size)
        self._find_lines()

    def _find_lines(self) -> None:
        """Where new keys lie in a layer's tensor [rows, groups, slots + 1, dim] seen as lines of ``dim``."""
        heads = self.rows[:, None] * self._groups + torch.arange(self._groups, device=self.rows.device)[:, None]
        self.lines = (heads * (self.size + 1) + self.places[:, None]).flatten()


class LayerMemory:
    """Keys and values of one layer, in slots. Satisfies ``envfarm_rl.policy.attention.KeyValues`` for the pass that its
    :class:`Slots` has begun. One slot more than needed takes what is to be thrown away."""

    def __init__(self, slots: Slots, keys: Tensor, values: Tensor) -> None:
        self._slots = slots
        self.keys, self.values = keys, values
        """[rows, groups, slots + 1, dim]. Zeros to begin with: a masked slot weighs 0, but 0 times NaN would not be."""

    def fit(self) -> None:
        """Grow to the size that the slots have now."""
        if self._slots.size >= self.keys.shape[2]:
            self.keys, self.values = _wider(self.keys, self._slots.size), _wider(self.values, self._slots.size)

    def extend(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`KeyValues`."""
        self.fit()
        slots = self._slots
        window = slice(slots.first, slots.first + keys.shape[0]), slice(None), slice(slots.used)
        if slots.joins:
            seen = torch.cat((self.keys[window], keys), dim=2), torch.cat((self.values[window], values), dim=2)
        else:
            seen = self.keys[window], self.values[window]
        for held, new in ((self.keys, keys), (self.values, values)):
            held.view(-1, held.shape[-1]).index_copy_(0, slots.lines, new.to(held.dtype).reshape(-1, held.shape[-1]))
        return *seen, slots.seen


class Memory:
    """All layers of the trunk and of the first ``heads`` MTP heads, for ``rows`` sequences, with the trunk's last
    states: those are what a head needs to catch up when it has not been run for a while.

    ``spare`` is how many tokens may be taken back: rings are that much longer than the window. ``slots`` is how many
    tokens global layers hold before they grow.
    """

    def __init__(
        self,
        config: MiMoConfig,
        rows: int,
        *,
        spare: int,
        heads: int,
        slots: int = 256,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        def tensor(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        def layer(kind: int, places: Slots) -> LayerMemory:
            shape = rows, config.key_value_heads(kind), places.size + 1
            return LayerMemory(places, tensor(*shape, config.head_dim), tensor(*shape, config.v_head_dim))

        ring = config.window + spare
        self._device = device
        groups, window = config.key_value_heads(WINDOW), config.window
        self._slots = {
            GLOBAL: Slots(slots, groups=config.key_value_heads(GLOBAL), window=None),
            WINDOW: Slots(ring, groups=groups, window=window),
        }
        self._head_slots = Slots(ring, groups=groups, window=window)
        self.trunk: Sequence[LayerMemory] = [layer(kind, self._slots[kind]) for kind in config.hybrid_layer_pattern]
        self.heads: Sequence[LayerMemory] = [layer(WINDOW, self._head_slots) for _ in range(heads)]
        self.states = tensor(rows, ring + 1, config.hidden_size) if heads else None

    def begin(self, first: int, starts: Tensor, counts: Tensor) -> Tensor:
        """Begin a pass of the trunk over rows ``first``, ...: ``counts`` [R] tokens after lengths ``starts`` [R], both
        on the CPU. Gives positions [R, T], :data:`EMPTY` on the right of the shorter ones."""
        positions = _positions(starts, counts).to(self._device)
        for slots in self._slots.values():
            slots.begin(first, starts, counts, positions)
        return positions

    def remember(self, hidden: Tensor) -> None:
        """Keep the states [R, T, width] that the begun pass gave."""
        if self.states is not None:
            ring = self._slots[WINDOW]
            self.states[ring.rows, ring.places] = hidden.to(self.states.dtype)

    def begin_head(self, first: int, starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Begin passes of heads: as :meth:`begin`, but with :data:`EMPTY` on the left, so that each sequence's last
        position comes last; and the trunk's states [R, T, width] there."""
        assert self.states is not None, "this memory was made without heads"
        positions = _positions(starts, counts, right=True).to(self._device)
        slots = self._head_slots
        slots.begin(first, starts, counts, positions)
        # Zeros where there is nothing: a draft from no state at all must not depend on what others threw away.
        states = self.states[slots.rows, positions % slots.size].masked_fill_((positions == EMPTY)[..., None], 0.0)
        return positions, states

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows ``source`` to rows ``target``."""
        for tensor in self._tensors():
            tensor[target] = tensor[source]

    def save(self, row: int, length: int) -> list[Tensor]:
        """A copy of what is known of the first ``length`` tokens of a row, for :meth:`load`."""
        return [tensor[row, ..., : min(length, tensor.shape[-2] - 1), :].clone() for tensor in self._tensors()]

    def load(self, row: int, length: int, saved: Sequence[Tensor]) -> None:
        """Put back what :meth:`save` gave for that length, of a memory with the same rings."""
        self._slots[GLOBAL].reserve(length)
        for layer in self.trunk:
            layer.fit()
        for tensor, part in zip(self._tensors(), saved, strict=True):
            tensor[row, ..., : part.shape[-2], :] = part

    @property
    def bytes(self) -> int:
        """Bytes of everything kept, spare slots not counted."""
        return sum(tensor[..., :-1, :].numel() * tensor.element_size() for tensor in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        for layer in (*self.trunk, *self.heads):
            yield layer.keys
            yield layer.values
        if self.states is not None:
            yield self.states


def memory_bytes(config: MiMoConfig, tokens: int, *, spare: int, heads: int, element_bytes: int = 2) -> int:
    """What one sequence of ``tokens`` needs, trunk and heads: global layers grow with it, window layers and the
    trunk's states that heads read do not."""
    size, ring = config.head_dim + config.v_head_dim, config.window + spare
    kinds = [*config.hybrid_layer_pattern, *(WINDOW for _ in range(heads))]
    lengths = {GLOBAL: tokens, WINDOW: ring}
    kept = sum(config.key_value_heads(kind) * size * lengths[kind] for kind in kinds)
    return (kept + (config.hidden_size * ring if heads else 0)) * element_bytes


def _positions(starts: Tensor, counts: Tensor, *, right: bool = False) -> Tensor:
    """[R, T], padded on the right, or on the left where they are to end on the ``right``. At least one column, so that
    a pass over nothing is still a pass."""
    longest = max(1, int(counts.max()))
    offsets = torch.arange(longest).expand(len(counts), -1)
    if right:
        offsets = offsets - (longest - counts[:, None])
    return (starts[:, None] + offsets).masked_fill((offsets < 0) | (offsets >= counts[:, None]), EMPTY)


def _wider(tensor: Tensor, slots: int) -> Tensor:
    wide = tensor.new_zeros(*tensor.shape[:2], slots + 1, tensor.shape[-1])
    wide[:, :, : tensor.shape[2] - 1] = tensor[:, :, :-1]
    return wide
