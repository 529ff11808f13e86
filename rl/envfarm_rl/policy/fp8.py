"""FP8 weights with one scale for each block of 128 x 128, as released checkpoints hold them."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
DTYPE = torch.float8_e4m3fn
SCALE = "_scale_inv"
"""Ending of the scale's name after that of its weight."""


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Shape of the scales of a weight [out, in]: blocks at the edges may be smaller."""
    rows, columns = shape
    return -(-rows // BLOCK), -(-columns // BLOCK)


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``weight`` [out, in] times its block's ``scale`` [ceil(out/128), ceil(in/128)]. Raises ``ValueError`` where the
    two do not fit."""
    if tuple(scale.shape) != scale_shape(tuple(weight.shape)):
        raise ValueError(f"scales of shape {tuple(scale.shape)} do not fit a weight of {tuple(weight.shape)}")
    return (weight.float() * _spread(scale, weight.shape)).to(dtype)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 weight and fp32 scales such that each block's largest value is the largest of the format."""
    rows, columns = scale_shape(tuple(weight.shape))
    padded = torch.zeros(rows * BLOCK, columns * BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight.detach().float().cpu()
    largest = padded.view(rows, BLOCK, columns, BLOCK).abs().amax(dim=(1, 3))
    scale = torch.where(largest > 0, largest / torch.finfo(DTYPE).max, torch.ones_like(largest))
    return (weight.detach().float().cpu() / _spread(scale, weight.shape)).to(DTYPE), scale


def _spread(scale: Tensor, shape: torch.Size) -> Tensor:
    wide = scale.float().repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return wide[: shape[0], : shape[1]]
