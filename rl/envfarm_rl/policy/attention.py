"""Attention of MiMo-V2-Flash: grouped queries, unequal key and value sizes, partial RoPE, sinks, two kinds of reach."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import WINDOW, MiMoConfig

EMPTY = -1
"""Position of a key slot that holds nothing."""


class KeyValues(Protocol):
    """What one layer remembers of a batch of sequences."""

    def extend(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take in ``keys`` [B, Hk, T, D] and ``values`` [B, Hk, T, Dv] at ``positions`` [B, T] (:data:`EMPTY` for
        padding), and return all keys, values and their positions [B, S] that a query may need."""
        ...


class Places:
    """Where the tokens of a pass stand, as layers of one kind see it: worked out once, not again in each layer."""

    def __init__(self, config: MiMoConfig, kind: int, positions: Tensor, allowed: Tensor | None = None) -> None:
        """``positions`` [B, T]; ``allowed`` [B, T, S] (bool) narrows further who sees whom: several answers to one
        prompt, packed documents."""
        self.positions = positions
        self.cos, self.sin = rotation(positions, config.rotary_dim, config.theta(kind))
        self._window = config.window if kind == WINDOW else None
        self._allowed = allowed
        self._known: tuple[Tensor, bool, Tensor] | None = None

    def mask(self, seen: Tensor, last: bool) -> Tensor:
        """Which of the keys at positions ``seen`` [B, S] each query, or the last one alone, sees: [B, T or 1, S]."""
        if self._known is None or self._known[0] is not seen or self._known[1] is not last:
            mask = visible(self.positions[:, -1:] if last else self.positions, seen, self._window)
            if self._allowed is not None:
                mask = mask & (self._allowed[:, -1:] if last else self._allowed)
            self._known = seen, last, mask
        return self._known[2]


class Attention(nn.Module):
    """One layer's attention. ``kind`` is one of ``GLOBAL``, ``WINDOW``."""

    def __init__(self, config: MiMoConfig, kind: int) -> None:
        super().__init__()
        self.queries, self.groups = config.query_heads(kind), config.key_value_heads(kind)
        self.head_dim, self.v_head_dim = config.head_dim, config.v_head_dim
        self.value_scale = config.attention_value_scale
        width = config.hidden_size
        self.q_proj = nn.Linear(width, self.queries * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, self.groups * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, self.groups * self.v_head_dim, bias=False)
        self.o_proj = nn.Linear(self.queries * self.v_head_dim, width, bias=False)
        self.attention_sink_bias = nn.Parameter(torch.zeros(self.queries)) if config.has_sinks(kind) else None

    def forward(self, x: Tensor, places: Places, memory: KeyValues | None = None, *, last: bool = False) -> Tensor:
        """``x`` [B, T, hidden] -> [B, T, hidden]; with ``last`` only the last token's, [B, 1, hidden]: the others give
        keys and values and nothing else."""
        batch, length, _ = x.shape
        cos, sin, seen = places.cos, places.sin, places.positions
        k = self.k_proj(x).view(batch, length, self.groups, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.groups, self.v_head_dim).transpose(1, 2) * self.value_scale
        k = rotate(k, cos, sin)
        if memory is not None:
            k, v, seen = memory.extend(k, v, seen)
        if last:
            x, cos, sin, length = x[:, -1:], cos[:, :, -1:], sin[:, :, -1:], 1
        q = self.q_proj(x).view(batch, length, self.queries, self.head_dim).transpose(1, 2)
        out = attend(rotate(q, cos, sin), k, v, places.mask(seen, last), self.attention_sink_bias)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which of the keys at positions ``keys`` [B, S] a query at ``queries`` [B, T] sees: bool [B, T, S]. ``window``
    counts the query's own position."""
    gap = queries[:, :, None] - keys[:, None, :]
    mask = (gap >= 0) & (keys[:, None, :] > EMPTY)
    return mask if window is None else mask & (gap < window)


def rotation(positions: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, 1, T, dim / 2] by which pairs of the ``dim`` rotated dimensions turn, in fp32."""
    angles = positions[:, None, :, None].float() * _frequencies(dim, theta, positions.device)
    return angles.cos(), angles.sin()


@cache
def _frequencies(dim: int, theta: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, others may want gradients
        return theta ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dimensions of heads ``x`` [B, H, T, D], as many as :func:`rotation` has pairs for, halves
    against each other (NeoX)."""
    half = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat((*turned, rest), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax attention with a sink: one extra logit for each query head that takes mass and gives nothing.

    ``q`` [B, Hq, T, D], ``k`` [B, Hk, S, D], ``v`` [B, Hk, S, Dv], ``mask`` bool [B, T, S], ``sinks`` [Hq] in raw logit
    units -> [B, Hq, T, Dv]. MiMo-V2-Flash report, equations 1-4. A query that sees nothing gives zeros.
    """
    # A few queries against many keys are quicker in plain steps; many of them in one fused pass.
    return _fused(q, k, v, mask, sinks) if q.shape[2] >= _FUSED_QUERIES else _stepwise(q, k, v, mask, sinks)


_FUSED_QUERIES = 16
_ALIGN = 8


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sinks: Tensor | None) -> Tensor:
    """The sink as one more key with value zero: a dimension of its own carries its logit, which so has a gradient."""
    batch, heads, _, dim = q.shape
    groups, v_dim = k.shape[1], v.shape[-1]
    # the fused kernel wants keys and values of one width
    width = -(-max(dim + 1, v_dim) // _ALIGN) * _ALIGN
    scale = dim**-0.5
    unit = k.new_zeros(batch, groups, 1, width)
    unit[..., dim] = 1.0
    k = torch.cat((F.pad(k, (0, width - dim)), unit), dim=2)
    v = F.pad(v, (0, width - v_dim, 0, 1))
    if sinks is None:
        q = F.pad(q, (0, width - dim))
        spare = ~mask.any(dim=-1, keepdim=True)  # for queries that see nothing else
    else:
        logit = (sinks / scale).to(q.dtype).view(1, heads, 1, 1).expand(*q.shape[:3], 1)
        q = F.pad(torch.cat((q, logit), dim=-1), (0, width - dim - 1))
        spare = torch.ones_like(mask[..., :1])
    bias = torch.zeros(*mask.shape[:2], mask.shape[2] + 1, dtype=q.dtype, device=q.device)
    bias = bias.masked_fill_(~torch.cat((mask, spare), dim=-1), float("-inf"))[:, None]
    k, v = (each.repeat_interleave(heads // groups, dim=1) for each in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)[..., :v_dim]


def _stepwise(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sinks: Tensor | None) -> Tensor:
    batch, heads, length, dim = q.shape
    groups = k.shape[1]
    shape = batch, groups, heads // groups * length, -1
    scores = ((q * dim**-0.5).reshape(batch, groups, -1, dim) @ k.transpose(-1, -2)).view(batch, heads, length, -1)
    scores = torch.where(mask[:, None], scores, float("-inf"))
    # one column more takes the sink's mass, and all of it where there is nothing else to see
    column = scores.new_full((1,), torch.finfo(scores.dtype).min) if sinks is None else sinks.to(scores.dtype)
    column = column.view(1, -1, 1, 1).expand(batch, heads, length, 1)
    weights = torch.cat((scores, column), dim=-1).softmax(dim=-1)[..., :-1]
    return (weights.view(shape).to(v.dtype) @ v).view(batch, heads, length, -1)
