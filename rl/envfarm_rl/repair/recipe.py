"""The recipe of a bring-up: shape, data, steps, rates. One file says all that made a checkpoint."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import Field, ValidationError

from envfarm.core.config import Section
from envfarm.core.errors import ConfigError, Reason

from ..policy import MiMoConfig, from_hub


class CorpusSection(Section):
    """What is read."""

    train: tuple[str, ...]
    """Packages whose functions are trained on."""
    held_out: tuple[str, ...]
    """Packages that are never trained on; functions that occur in them are dropped from the others."""
    functions: int = Field(default=320, ge=1)
    """Most functions of a package."""
    examples: int = Field(default=5, ge=1)
    """Most examples of a function."""
    seed: int = 0
    """Of the bugs planted."""


class TokenizerSection(Section):
    """How text becomes tokens."""

    vocabulary: int = Field(default=2048, ge=300)
    """Plain tokens."""


class StepsSection(Section):
    """How long, in what batches, how fast."""

    seed: int = 0
    """Of weights and order."""
    steps: int = Field(default=6000, ge=1)
    """Of the trunk."""
    tokens: int = Field(default=3072, ge=64)
    """Padded tokens of a step."""
    longest: int = Field(default=320, ge=32)
    """Tokens of the longest page that is trained on."""
    muon: float = Field(default=0.02, gt=0)
    """Peak rate of the trunk's matrices."""
    adamw: float = Field(default=2e-3, gt=0)
    """Peak rate of all else."""
    half: bool = False
    """Multiply in bfloat16; worth it for wide policies on a GPU."""
    warmup: int = Field(default=30, ge=0)
    """Steps to the peak."""
    decay: float = Field(default=0.4, gt=0, le=1)
    """Share of the steps, at the end, over which rates fall to a twentieth."""
    page: float = Field(default=0.5, ge=0)
    """Weight of the page's own next-token loss."""
    mark: float = Field(default=2.0, ge=0)
    """Weight of the loss of the marks at line ends."""
    episodes: float = Field(default=0.15, ge=0, le=1)
    """Share of examples that are whole episodes: a wrong edit, its test run, the way back, the right edit."""
    head_steps: int = Field(default=600, ge=0)
    """Of the MTP heads, afterwards, the trunk at rest."""
    head_tokens: int = Field(default=3072, ge=64)
    """Padded tokens of a step of the heads."""
    head_rate: float = Field(default=2e-3, gt=0)
    """Peak rate of the heads."""


class BringupRecipe(Section):
    """Everything, resolved."""

    shape: dict[str, object]
    """Keys of a hub ``config.json``; ``vocab_size`` follows from the tokenizer."""
    corpus: CorpusSection
    """What is read."""
    tokenizer: TokenizerSection = TokenizerSection()
    """How text becomes tokens."""
    training: StepsSection = StepsSection()
    """Steps and rates."""

    def config(self, vocabulary: int) -> MiMoConfig:
        """The shape for a vocabulary of that size. Raises ``ConfigError``."""
        return from_hub({**self.shape, "vocab_size": vocabulary})


def read_recipe(file: Path | None = None) -> BringupRecipe:
    """A recipe file; without one, that of the policy we ship. Raises ``ConfigError``."""
    try:
        text = (
            (files("envfarm_rl.repair") / "mimo-tiny.toml").read_text("utf-8")
            if file is None
            else file.read_text("utf-8")
        )
        return BringupRecipe.model_validate(tomllib.loads(text))
    except OSError as error:
        raise _refused(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refused(f"{file} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(f"key '{'.'.join(map(str, first['loc']))}': {first['msg'].lower()}") from error


def _refused(why: str) -> ConfigError:
    return ConfigError(
        f"The recipe cannot be used: {why}.", reason=Reason.config, phase="bringup", remedy="See docs/tiny_repair.md."
    )
