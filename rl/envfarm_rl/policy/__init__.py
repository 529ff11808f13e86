"""The policy: MiMo-V2-Flash in plain torch, at any size."""

from .checkpoint import load_policy, save_policy
from .config import GLOBAL, WINDOW, MiMoConfig, from_hub, read_config, to_hub
from .layout import active_parameters, released_layout
from .model import Forward, MiMo, MTPHead

__all__ = [
    "GLOBAL",
    "WINDOW",
    "Forward",
    "MTPHead",
    "MiMo",
    "MiMoConfig",
    "active_parameters",
    "from_hub",
    "load_policy",
    "read_config",
    "released_layout",
    "save_policy",
    "to_hub",
]
