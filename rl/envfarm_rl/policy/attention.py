"""Attention of MiMo-V2-Flash: grouped queries, unequal key and value sizes, partial RoPE, sinks, two kinds of reach."""

from __future__ import annotations

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


class Attention(nn.Module):
    """One layer's attention. ``kind`` is one of ``GLOBAL``, ``WINDOW``."""

    def __init__(self, config: MiMoConfig, kind: int) -> None:
        super().__init__()
        self.queries, self.groups = config.query_heads(kind), config.key_value_heads(kind)
        self.head_dim, self.v_head_dim = config.head_dim, config.v_head_dim
        self.window = config.window if kind == WINDOW else None
        self.value_scale = config.attention_value_scale
        self.rotary_dim, self.theta = config.rotary_dim, config.theta(kind)
        width = config.hidden_size
        self.q_proj = nn.Linear(width, self.queries * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, self.groups * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, self.groups * self.v_head_dim, bias=False)
        self.o_proj = nn.Linear(self.queries * self.v_head_dim, width, bias=False)
        self.attention_sink_bias = nn.Parameter(torch.zeros(self.queries)) if config.has_sinks(kind) else None

    def forward(
        self, x: Tensor, positions: Tensor, cache: KeyValues | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """``x`` [B, T, hidden] at ``positions`` [B, T] -> [B, T, hidden].

        ``allowed`` [B, T, S] (bool) narrows further who sees whom: several answers to one prompt, packed documents.
        """
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.queries, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.groups, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.groups, self.v_head_dim).transpose(1, 2) * self.value_scale
        cos, sin = rotation(positions, self.rotary_dim, self.theta)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        seen = positions
        if cache is not None:
            k, v, seen = cache.extend(k, v, positions)
        mask = visible(positions, seen, self.window)
        if allowed is not None:
            mask = mask & allowed
        out = attend(q, k, v, mask, self.attention_sink_bias)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which of the keys at positions ``keys`` [B, S] a query at ``queries`` [B, T] sees: bool [B, T, S]. ``window``
    counts the query's own position."""
    gap = queries[:, :, None] - keys[:, None, :]
    mask = (gap >= 0) & (keys[:, None, :] > EMPTY)
    return mask if window is None else mask & (gap < window)


def rotation(positions: Tensor, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, 1, T, dim] of the rotated dimensions, in fp32."""
    frequencies = theta ** -(torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angles = positions[:, None, :, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first ``cos.shape[-1]`` dimensions of heads ``x`` [B, H, T, D], halves against each other (NeoX)."""
    dim = cos.shape[-1]
    turned, rest = x[..., :dim], x[..., dim:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x.dtype)
    return torch.cat((turned, rest), dim=-1)


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
    q = q.reshape(batch, groups, heads // groups * length, dim)
    scores = (q @ k.transpose(-1, -2)).view(batch, heads, length, -1) * dim**-0.5
    scores = scores.masked_fill(~mask[:, None], float("-inf"))
    top = scores.amax(dim=-1, keepdim=True)
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, heads, 1, 1).expand(batch, -1, length, -1)
        top = torch.maximum(top, column)
    top = top.detach().clamp_min(torch.finfo(scores.dtype).min)
    weights = (scores - top).exp()
    total = weights.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + (column - top).exp()
    weights = weights / total.clamp_min(torch.finfo(scores.dtype).tiny)
    weights = weights.view(batch, groups, heads // groups * length, -1)
    return (weights.to(v.dtype) @ v).view(batch, heads, length, -1)
