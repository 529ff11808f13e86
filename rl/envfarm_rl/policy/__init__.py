"""The policy: MiMo-V2-Flash in plain torch, at any size."""

from .config import GLOBAL, WINDOW, MiMoConfig, from_hub, read_config, to_hub
from .model import Forward, MiMo, MTPHead

__all__ = ["GLOBAL", "WINDOW", "Forward", "MTPHead", "MiMo", "MiMoConfig", "from_hub", "read_config", "to_hub"]
