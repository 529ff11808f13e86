"""Feed-forward parts: dense SwiGLU, and experts chosen by a sigmoid router whose bias selects but does not weigh."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import MiMoConfig


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Scores of experts, in fp32 throughout."""

    e_score_correction_bias: Tensor

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.normalise = config.norm_topk_prob
        self.scale = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size, dtype=torch.float32))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x: Tensor, route: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` [N, width] -> weights and expert ids [N, top_k]. ``route`` gives the ids of an earlier pass: then only
        their weights are computed anew, with gradient through the scores (routing replay, arXiv 2510.11370, in the
        sigmoid form)."""
        scores = F.linear(x.float(), self.weight.float()).sigmoid()
        if route is None:
            route = (scores + self.e_score_correction_bias).topk(self.top_k, dim=-1, sorted=False).indices
        weights = scores.gather(1, route)
        if self.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return weights * self.scale, route


class Experts(nn.Module):
    """Routed experts. The last route [B, T, top_k] is kept for replay."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.n_routed_experts)
        )

    def forward(self, x: Tensor, route: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``x`` [B, T, width] -> output of the same shape, and the route taken [B, T, top_k]."""
        shape = x.shape
        flat = x.reshape(-1, shape[-1])
        weights, chosen = self.gate(flat, None if route is None else route.reshape(-1, route.shape[-1]))
        out = torch.zeros_like(flat)
        for expert in chosen.unique().tolist():
            token, place = (chosen == expert).nonzero(as_tuple=True)
            result = self.experts[expert](flat[token]) * weights[token, place, None].to(flat.dtype)
            out = out.index_add(0, token, result.to(out.dtype))
        return out.view(shape), chosen.view(*shape[:-1], -1)
