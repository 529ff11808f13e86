"""Optimisers: Muon for the trunk's matrices, AdamW for the rest of the policy, and one apart for the MTP heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from envfarm.core.errors import Reason, TrainerError

from ..policy import MiMo

_HEADS = "model.mtp."
_BLOCKS = "model.layers."
_ROUTER = ".mlp.gate.weight"


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """Rates are peaks; :func:`schedule` scales them."""

    lr: float = 1e-6
    """Of the policy. Muon's updates are scaled to AdamW's size (arXiv 2502.16982), so that one rate serves both."""
    lr_heads: float = 1e-4
    vector_scale: float = 1.0
    """Rate of the policy's norms and sinks, as a multiple of ``lr``. Gains of norms set how sharp laws are: what all
    tasks ask for alike shows there before matrices have learned single tasks by heart."""
    weight_decay: float = 0.0
    """Of matrices; vectors (norms, sinks) have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    momentum: float = 0.95
    """Of Muon."""
    clip: float = 1.0
    """Largest norm of the policy's gradient."""
    clip_heads: float = 1.0
    """Of the heads': a common one would let one's gradient shrink the other's update."""
    warmup: int = 0
    """Steps."""
    decay_from: int | None = None
    """First step of the decay; None keeps the peak."""
    total: int = 0
    """Step at which the decay ends."""
    final: float = 0.1
    """Share of the peak after it."""


def schedule(step: int, config: OptimiserConfig) -> float:
    """Share of the peak rate at ``step`` (from 0): linear warm-up, the peak, linear decay to ``final``."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.decay_from is None or step < config.decay_from:
        return 1.0
    done = min(1.0, (step - config.decay_from) / max(1, config.total - config.decay_from))
    return 1.0 + (config.final - 1.0) * done


@dataclass(frozen=True, slots=True)
class ParameterGroups:
    """A policy's parameters by who trains them. The router's selection bias is a buffer, and in none."""

    matrices: Mapping[str, nn.Parameter]
    """Of the trunk's blocks, routers excepted."""
    tables: Mapping[str, nn.Parameter]
    """Embedding, ``lm_head``, routers: rows that stand for single tokens or experts, which Muon would mix."""
    vectors: Mapping[str, nn.Parameter]
    """Norms and sinks."""
    heads: Mapping[str, nn.Parameter]
    """All of the MTP heads."""


def group_parameters(policy: MiMo) -> ParameterGroups:
    """Every parameter of the policy, in one group each."""
    groups: tuple[dict[str, nn.Parameter], ...] = ({}, {}, {}, {})
    for name, parameter in policy.named_parameters():
        if name.startswith(_HEADS):
            index = 3
        elif parameter.ndim != 2:
            index = 2
        elif name.startswith(_BLOCKS) and not name.endswith(_ROUTER):
            index = 0
        else:
            index = 1
        groups[index][name] = parameter
    return ParameterGroups(*groups)


class Optimisers:
    """Steps a policy, and its heads apart from it: neither step touches what the other trains."""

    def __init__(self, policy: MiMo, config: OptimiserConfig) -> None:
        groups = group_parameters(policy)
        self.config = config
        self._policy = [*groups.matrices.values(), *groups.tables.values(), *groups.vectors.values()]
        self._heads = list(groups.heads.values())
        adam = {"lr": config.lr, "betas": config.betas}
        self._optimisers: dict[str, Optimizer] = {
            "matrices": Muon(
                groups.matrices.values(),
                lr=config.lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            ),
            "rest": AdamW(
                [
                    {"params": list(groups.tables.values()), "weight_decay": config.weight_decay},
                    {"params": list(groups.vectors.values()), "weight_decay": 0.0, "scale": config.vector_scale},
                ],
                **adam,
            ),
        }
        if self._heads:
            self._optimisers["heads"] = AdamW(
                [
                    {"params": [p for p in self._heads if p.ndim == 2], "weight_decay": config.weight_decay},
                    {"params": [p for p in self._heads if p.ndim != 2], "weight_decay": 0.0},
                ],
                **adam,
            )

    def step_policy(self, step: int) -> float:
        """Update the policy from the gradients it holds and drop them; the gradient's norm before the clip. Raises
        ``TrainerError``, with nothing changed, where it is not finite."""
        return self._step("the policy", self._policy, ("matrices", "rest"), step, self.config.lr, self.config.clip)

    def step_heads(self, step: int) -> float:
        """The same for the MTP heads."""
        return self._step("the heads", self._heads, ("heads",), step, self.config.lr_heads, self.config.clip_heads)

    def _step(
        self, what: str, parameters: list[nn.Parameter], names: tuple[str, ...], step: int, lr: float, clip: float
    ) -> float:
        norm = _clip(what, parameters, clip)
        for name in names:
            optimiser = self._optimisers[name]
            for group in optimiser.param_groups:
                group["lr"] = lr * group.get("scale", 1.0) * schedule(step, self.config)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to take the same steps."""
        return {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of a policy of the same shape."""
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state[name])


def _clip(what: str, parameters: Iterable[Tensor], most: float) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        raise TrainerError(
            f"The gradient of {what} is not finite.",
            reason=Reason.not_finite,
            phase="optimiser step",
            remedy="Resume from the last stable checkpoint with a smaller learning rate, and look at the batch.",
        )
    for gradient in gradients:
        gradient.mul_(torch.clamp(most / (norm + 1e-6), max=1.0).to(gradient.dtype))
    return float(norm)
