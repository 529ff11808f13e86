"""What an engine remembers of a batch: keys and values of each layer, constant in size for window layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..policy import GLOBAL, WINDOW, MiMoConfig
from ..policy.attention import EMPTY


class LayerMemory:
    """Keys and values of one layer in slots, and which position each slot holds.

    Satisfies ``envfarm_rl.policy.attention.KeyValues``. One slot more than needed takes what is to be thrown away.
    """

    def __init__(self, batch: int, groups: int, dim: int, v_dim: int, slots: int, *, ring: bool, dtype: torch.dtype):
        self._ring = ring
        self._slots = slots
        self._keys = torch.zeros(batch, groups, slots + 1, dim, dtype=dtype)
        self._values = torch.zeros(batch, groups, slots + 1, v_dim, dtype=dtype)
        self._positions = torch.full((batch, slots + 1), EMPTY, dtype=torch.long)

    def extend(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`KeyValues`. A ring returns what it held beside what is new, as a long pass overwrites what its
        own first queries still need."""
        if not self._ring:
            self._grow(int(positions.max()) + 1)
            self._write(keys, values, positions)
            used = int(self._positions.max()) + 1
            return self._keys[:, :, :used], self._values[:, :, :used], self._positions[:, :used]
        held = self._keys[:, :, :-1], self._values[:, :, :-1], self._positions[:, :-1]
        together = tuple(torch.cat(pair, dim=-2) for pair in ((held[0], keys), (held[1], values)))
        seen = torch.cat((held[2], positions), dim=-1)
        newest = positions.amax(dim=-1, keepdim=True)
        self._write(keys, values, positions.masked_fill(positions <= newest - self._slots, EMPTY))
        return together[0], together[1], seen

    def rewind(self, lengths: Tensor) -> None:
        """Forget everything at or after ``lengths`` [B]."""
        self._positions.masked_fill_(self._positions >= lengths[:, None], EMPTY)

    def keep(self, rows: Tensor) -> None:
        """Keep the sequences ``rows`` [B'] only, in that order."""
        self._keys, self._values, self._positions = self._keys[rows], self._values[rows], self._positions[rows]

    @property
    def bytes(self) -> int:
        """Bytes of keys and values, the spare slot not counted."""
        return sum(each[:, :, :-1].numel() * each.element_size() for each in (self._keys, self._values))

    def _write(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        places = torch.where(positions < 0, self._slots, positions % self._slots if self._ring else positions)
        rows = torch.arange(places.shape[0])[:, None]
        # Advanced indices stand first in the result: [B, T, groups, dim].
        self._keys[rows, :, places] = keys.transpose(1, 2).to(self._keys.dtype)
        self._values[rows, :, places] = values.transpose(1, 2).to(self._values.dtype)
        self._positions[rows, places] = positions
        self._positions[:, -1] = EMPTY

    def _grow(self, needed: int) -> None:
        if needed <= self._slots:
            return
        slots = max(needed, 2 * self._slots)
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            wide = old.new_zeros(*old.shape[:2], slots + 1, old.shape[-1])
            wide[:, :, : self._slots] = old[:, :, :-1]
            setattr(self, name, wide)
        places = self._positions.new_full((self._positions.shape[0], slots + 1), EMPTY)
        places[:, : self._slots] = self._positions[:, :-1]
        self._positions, self._slots = places, slots


class Memory:
    """All layers of the trunk and of the MTP heads, for ``batch`` sequences.

    ``spare`` is how many tokens may be taken back at once: rings are that much longer than the window, so that what a
    rejected draft has overwritten was out of reach anyway.
    """

    def __init__(
        self, config: MiMoConfig, batch: int, *, spare: int, slots: int = 256, dtype: torch.dtype = torch.float32
    ) -> None:
        def make(kind: int) -> LayerMemory:
            ring = kind == WINDOW
            return LayerMemory(
                batch,
                config.key_value_heads(kind),
                config.head_dim,
                config.v_head_dim,
                config.window + spare if ring else slots,
                ring=ring,
                dtype=dtype,
            )

        self.trunk: Sequence[LayerMemory] = [make(kind) for kind in config.hybrid_layer_pattern]
        self.heads: Sequence[LayerMemory] = [make(WINDOW) for _ in range(config.num_nextn_predict_layers)]

    def __iter__(self) -> Iterator[LayerMemory]:
        yield from self.trunk
        yield from self.heads

    def rewind(self, lengths: Tensor) -> None:
        """Forget everything at or after ``lengths`` [B], in every layer."""
        for layer in self:
            layer.rewind(lengths)

    def keep(self, rows: Tensor) -> None:
        """Keep the sequences ``rows`` only."""
        for layer in self:
            layer.keep(rows)

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(layer.bytes for layer in self)


def memory_bytes(config: MiMoConfig, tokens: int, *, spare: int, element_bytes: int = 2) -> int:
    """What one sequence of ``tokens`` needs, trunk and heads: global layers grow with it, window layers do not."""
    size = config.head_dim + config.v_head_dim
    kinds = [*config.hybrid_layer_pattern, *(WINDOW for _ in range(config.num_nextn_predict_layers))]
    lengths = {GLOBAL: tokens, WINDOW: config.window + spare}
    return sum(config.key_value_heads(kind) * size * lengths[kind] for kind in kinds) * element_bytes
