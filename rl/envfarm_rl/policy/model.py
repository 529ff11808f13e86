"""MiMo-V2-Flash at any size, in plain torch: a hybrid trunk, its head, and the heads of multi-token prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, KeyValues, Places
from .config import WINDOW, MiMoConfig
from .experts import MLP, Experts, Router


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32; the weight is applied after the cast back."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.weight * F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype)


class Layer(nn.Module):
    """A pre-norm block of the trunk."""

    def __init__(self, config: MiMoConfig, index: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layernorm_epsilon
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(config, config.hybrid_layer_pattern[index])
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.routed = bool(config.moe_layer_freq[index])
        self.mlp = Experts(config) if self.routed else MLP(width, config.intermediate_size)

    def forward(
        self, x: Tensor, places: Places, cache: KeyValues | None, route: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The block's output and, where it has experts, the route taken."""
        x = x + self.self_attn(self.input_layernorm(x), places, cache)
        inner = self.post_attention_layernorm(x)
        if not self.routed:
            return x + self.mlp(inner), None
        added, taken = self.mlp(inner, route)
        return x + added, taken


class MTPHead(nn.Module):
    """One head of multi-token prediction: a window block with a dense FFN over token and trunk state, side by side.

    Head ``k`` (from 0) at position ``t`` reads the embedding of token ``t+1+k`` and the trunk's state at ``t`` before
    the final norm, and predicts token ``t+2+k`` through the trunk's own ``lm_head``. Heads are not chained: each reads
    the trunk. Its positions are those of the trunk (``t``) for every head.
    """

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layernorm_epsilon
        self._config = config
        self.enorm = RMSNorm(width, eps)
        self.hnorm = RMSNorm(width, eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(config, WINDOW)
        self.pre_mlp_layernorm = RMSNorm(width, eps)
        self.mlp = MLP(width, config.intermediate_size)
        self.final_layernorm = RMSNorm(width, eps)

    def forward(
        self,
        hidden: Tensor,
        embedded: Tensor,
        positions: Tensor | Places,
        cache: KeyValues | None = None,
        *,
        last: bool = False,
    ) -> Tensor:
        """``hidden`` and ``embedded`` [B, T, width] -> what ``lm_head`` takes, [B, T, width]; with ``last`` only at the
        last position, [B, 1, width]: the others are remembered and nothing else. ``positions`` [B, T], or what
        :meth:`places` makes of them, which all heads can share."""
        places = positions if isinstance(positions, Places) else self.places(positions)
        x = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1))
        added = self.self_attn(self.input_layernorm(x), places, cache, last=last)
        x = (x[:, -1:] if last else x) + added
        x = x + self.mlp(self.pre_mlp_layernorm(x))
        return self.final_layernorm(x)

    def places(self, positions: Tensor) -> Places:
        """Of a head's layer."""
        return Places(self._config, WINDOW, positions)


class MTP(nn.Module):
    """Only a name: the heads lie at ``model.mtp.layers.N`` in released checkpoints."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MTPHead(config) for _ in range(config.num_nextn_predict_layers))


class Trunk(nn.Module):
    """Embedding, blocks, final norm, and the MTP heads beside them."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        if config.num_nextn_predict_layers:
            self.mtp = MTP(config)


@dataclass(frozen=True)
class Forward:
    """What a pass of the trunk gives."""

    hidden: Tensor
    """[B, T, width], before the final norm: what MTP heads read."""
    routes: tuple[Tensor | None, ...]
    """For each layer the experts chosen [B, T, top_k], None for dense ones."""


class MiMo(nn.Module):
    """The policy. Parameter names are those of released checkpoints."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def heads(self) -> Sequence[MTPHead]:
        """The MTP heads, first to last."""
        return list(self.model.mtp.layers) if self.config.num_nextn_predict_layers else []  # pyright: ignore

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T, width]."""
        return self.model.embed_tokens(tokens)

    def trunk(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        caches: Sequence[KeyValues] | None = None,
        allowed: Tensor | None = None,
        routes: Sequence[Tensor | None] | None = None,
    ) -> Forward:
        """Run the blocks over ``tokens`` [B, T] at ``positions`` [B, T] (0, 1, ... by default).

        ``caches`` holds one memory for each layer; ``allowed`` narrows who sees whom (see :class:`Places`);
        ``routes`` replays the experts of an earlier pass, None in a layer's place for live routing.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        x = self.embed(tokens)
        pattern = self.config.hybrid_layer_pattern
        places = {kind: Places(self.config, kind, positions, allowed) for kind in set(pattern)}
        taken: list[Tensor | None] = []
        for index, layer in enumerate(self.model.layers):
            cache = caches[index] if caches is not None else None
            x, route = layer(x, places[pattern[index]], cache, routes[index] if routes is not None else None)
            taken.append(route)
        return Forward(x, tuple(taken))

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of trunk states [..., width] -> [..., vocab]."""
        return self.lm_head(self.model.norm(hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, vocab] of plain sequences."""
        return self.logits(self.trunk(tokens).hidden)

    def initialise(self, generator: torch.Generator | None = None) -> MiMo:
        """Random weights: normal with ``initializer_range``, norms at one, sinks and selection bias at zero."""
        std = self.config.initializer_range
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, (nn.Linear, nn.Embedding, Router)):
                    module.weight.normal_(0.0, std, generator=generator)
        return self
