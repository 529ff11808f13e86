"""Which tensors a released checkpoint holds: names, shapes and types."""

from __future__ import annotations

import torch

from . import fp8
from .config import MiMoConfig
from .model import MiMo

Spec = tuple[tuple[int, ...], torch.dtype]

_ROUTER = (".mlp.gate.weight", ".mlp.gate.e_score_correction_bias")
_NEVER_FP8 = (".o_proj.weight", ".eh_proj.weight", ".mlp.gate.weight", "embed_tokens.weight", "lm_head.weight")


def is_fp8(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a released checkpoint holds that weight in FP8: every matrix but output projections, router, embedding,
    head and the MTP heads' input projection."""
    return len(shape) == 2 and not name.endswith(_NEVER_FP8)


def released_layout(config: MiMoConfig, *, quantised: bool = True) -> dict[str, Spec]:
    """Name -> shape and dtype of all tensors of a checkpoint of that shape. Allocates nothing."""
    with torch.device("meta"):
        policy = MiMo(config)
    specs: dict[str, Spec] = {}
    for name, tensor in policy.state_dict().items():
        shape = tuple(tensor.shape)
        if quantised and is_fp8(name, shape):
            specs[name] = shape, fp8.DTYPE
            specs[name + fp8.SCALE] = fp8.scale_shape(shape), torch.float32
        else:
            specs[name] = shape, torch.float32 if name.endswith(_ROUTER) else torch.bfloat16
    return specs


def active_parameters(config: MiMoConfig) -> tuple[int, int]:
    """Parameters of the trunk, head and embedding: all, and those that one token uses. MTP heads are not counted."""
    total = active = 0
    for name, (shape, _) in released_layout(config, quantised=False).items():
        if ".mtp." in name or name.endswith("e_score_correction_bias"):
            continue
        count = torch.Size(shape).numel()
        total += count
        _, routed, rest = name.partition(".experts.")
        if not routed or int(rest.split(".")[0]) < config.num_experts_per_tok:
            active += count
    return total, active
