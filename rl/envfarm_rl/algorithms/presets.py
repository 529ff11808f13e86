"""Named algorithms: one table."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from types import MappingProxyType

from envfarm.core.errors import ConfigError, Reason

from .policy_loss import Clip, Correction, PolicyLoss, Ratio

_NONE = Correction.none

PRESETS: Mapping[str, PolicyLoss] = MappingProxyType(
    {
        "ppo_clip": PolicyLoss(),
        "grpo": PolicyLoss(low=0.2, high=0.2, correction=_NONE),
        "dapo": PolicyLoss(low=0.2, high=0.28, correction=_NONE),
        "gspo": PolicyLoss(ratio=Ratio.sequence, low=3e-4, high=4e-4, correction=_NONE),
        "cispo": PolicyLoss(clip=Clip.truncated, high=4.0, correction=_NONE),
        "dppo_mask": PolicyLoss(clip=Clip.dropped, low=0.2, high=0.2, correction=_NONE, bypass=True),
        "decoupled": PolicyLoss(low=0.2, high=0.2, correction=Correction.tis, most=inf),
        "bypass": PolicyLoss(correction=_NONE, bypass=True),
        "icepop": PolicyLoss(correction=Correction.icepop, least=0.5, most=5.0),
        "mis": PolicyLoss(correction=Correction.mis, least=0.99, most=1.01),
        "opsm": PolicyLoss(correction=Correction.opsm, most=1e-4),
    }
)
"""Losses of tokens; how they are normalised (token mean, Dr.GRPO's constant) is the trainer's choice of denominator."""


def preset(name: str) -> PolicyLoss:
    """The algorithm of that name. Raises ``ConfigError``."""
    if name not in PRESETS:
        raise ConfigError(
            f"There is no algorithm {name!r}.",
            reason=Reason.config,
            phase="policy loss",
            remedy=f"Choose one of {', '.join(PRESETS)}.",
        )
    return PRESETS[name]
