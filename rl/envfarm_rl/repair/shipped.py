"""The checkpoint that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from envfarm.core.errors import Reason, TrainerError


def shipped_checkpoint() -> Path:
    """Folder of mimo-tiny after its bring-up: weights, tokenizer, recipe, manifest of its data, digests. Raises
    ``TrainerError`` where the package came without it."""
    folder = Path(str(files("envfarm_rl.repair"))) / "mimo-tiny"
    if not (folder / "config.json").exists():
        raise TrainerError(
            f"The package came without its checkpoint: {folder} is not there.",
            reason=Reason.checkpoint_missing,
            phase="bringup",
            remedy="Make it: envfarm train bringup.",
        )
    return folder
