"""The configuration of a training run: TOML, unknown keys refused, a docstring under every field."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from envfarm.core.config import Section
from envfarm.core.errors import ConfigError, Reason

from ..algorithms.advantages import AdvantageKind
from ..algorithms.head_loss import HeadLossKind
from ..algorithms.presets import preset
from ..chains.logprobs import check_trainable
from ..engine.memory import memory_bytes
from ..engine.sampling import Sampling
from ..policy import MiMo, MiMoConfig, from_hub, load_policy, read_config
from .optimisers import OptimiserConfig, group_parameters


class PolicySection(Section):
    """What is trained."""

    path: str = ""
    """Folder of the checkpoint to start from; empty starts from random weights of ``shape``."""
    shape: dict[str, Any] = {}
    """Keys of a hub ``config.json``, where there is no ``path``."""
    device: str = "cpu"
    """Where trainer and engine compute: ``cpu`` or ``cuda``."""


class EngineSection(Section):
    """How rollouts are generated."""

    max_context: int = Field(default=4096, ge=1)
    """Tokens of the longest sequence."""
    max_batch: int = Field(default=256, ge=1)
    """Sequences generated at once."""
    max_draft: int = Field(default=3, ge=0)
    """Most tokens drafted by MTP heads for each step; 0 turns speculation off."""
    adaptive: bool = False
    """Draft as many as pay by measured time. Then draws differ from run to run, and so does a resumed run."""
    temperature: float = Field(default=1.0, gt=0)
    """Of rollouts, and of the law that is trained."""


class AlgorithmSection(Section):
    """What is minimised."""

    name: str = "ppo_clip"
    """A preset of ``algorithms.presets``."""
    advantages: AdvantageKind = AdvantageKind.dr_grpo
    """How rewards of a group become advantages."""
    response_tokens: int = Field(default=512, ge=0)
    """The constant that each sample's loss is divided by (L_max of Dr.GRPO). 0 takes the mean over the batch's tokens
    in its place."""
    epochs: int = Field(default=1, ge=1)
    """Updates from each batch."""
    row_tokens: int = Field(default=4096, ge=2)
    """Tokens of a packed row, at least ``engine.max_context``: a sample lies in one."""
    micro_tokens: int = Field(default=8192, ge=2)
    """Tokens, padding included, that are computed at once. What is learned does not depend on it."""


class RolloutSection(Section):
    """How much is rolled out for a step."""

    groups: int = Field(default=8, ge=1)
    """Tasks of a step."""
    group_size: int = Field(default=8, ge=2)
    """Episodes of each task."""
    staleness: int = Field(default=0, ge=0, le=1)
    """0 rolls out and trains in turn; 1 rolls out the next step meanwhile, with weights one version old."""


class HeadsSection(Section):
    """Training of the MTP heads beside the policy."""

    online: bool = True
    """Train them on every batch; otherwise they stay as they are."""
    loss: HeadLossKind = HeadLossKind.soft_cross_entropy
    """What they minimise. ``e2e_tv`` optimises accepted length itself, and wants heads that are warm."""


class RunSection(Section):
    """The run itself: all of it but the seed may be changed when a run is resumed."""

    steps: int = Field(default=100, ge=1)
    """Steps in all."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Steps between two checkpoints; one more is written at the end."""
    keep: int = Field(default=3, ge=1)
    """Checkpoints kept."""
    seed: int = 0
    """Of random weights, the order of tasks, and all draws."""


class SourceSection(Section):
    """Where episodes come from."""

    path: str
    """``package.module:callable``, called with the engine, the sampling and ``options`` as keywords; it gives an
    ``EpisodeSource``."""
    options: dict[str, Any] = {}
    """Keyword arguments of the source's own."""


class TrainConfig(Section):
    """Everything, resolved."""

    policy: PolicySection = PolicySection()
    """What is trained."""
    engine: EngineSection = EngineSection()
    """How rollouts are generated."""
    algorithm: AlgorithmSection = AlgorithmSection()
    """What is minimised."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Rates, clips, schedule."""
    rollout: RolloutSection = RolloutSection()
    """How much is rolled out."""
    heads: HeadsSection = HeadsSection()
    """The MTP heads."""
    run: RunSection = RunSection()
    """Length, checkpoints, seed."""
    source: SourceSection
    """Where episodes come from."""

    @property
    def sampling(self) -> Sampling:
        """The law that rollouts draw from and training follows."""
        return Sampling(temperature=self.engine.temperature)

    def shape(self) -> MiMoConfig:
        """The policy's shape. Raises ``ConfigError``."""
        return read_config(Path(self.policy.path)) if self.policy.path else from_hub(self.policy.shape)

    def load_policy(self) -> MiMo:
        """The policy that the run starts from. Raises ``ConfigError`` and ``TrainerError``."""
        if self.policy.path:
            # small steps would be lost in the half precision that checkpoints are stored in
            return load_policy(Path(self.policy.path), dtype=torch.float32).to(self.policy.device)
        policy = MiMo(self.shape()).initialise(torch.Generator().manual_seed(self.run.seed))
        return policy.to(self.policy.device)

    def check(self) -> None:
        """Raises ``ConfigError`` for what fields alone cannot tell: names of nothing, sizes that do not fit."""
        preset(self.algorithm.name)
        check_trainable(self.sampling)
        heads = self.shape().num_nextn_predict_layers
        if self.engine.max_draft > heads:
            raise _refused("engine.max_draft", f"the policy has {heads} MTP heads")
        if self.heads.online and not heads:
            raise _refused("heads.online", "the policy has no MTP heads")
        if self.algorithm.row_tokens < self.engine.max_context:
            raise _refused("algorithm.row_tokens", f"sequences have up to {self.engine.max_context} tokens")
        locate(self.source.path)

    def resolved(self) -> dict[str, Any]:
        """All keys with their values, as JSON takes them."""
        return self.model_dump(mode="json")

    def fixed(self) -> dict[str, Any]:
        """Of :meth:`resolved`, what a resumed run must not change."""
        values = self.resolved()
        return {**values, "run": {"seed": values["run"]["seed"]}}

    def memory_estimate(self) -> dict[str, int]:
        """Bytes of what lasts: ``weights`` and ``gradients`` of the trainer, ``optimisers``, ``engine_weights``, and
        ``kv_per_sequence`` at ``max_context``. Activations come on top, by ``algorithm.micro_tokens``."""
        shape = self.shape()
        with torch.device("meta"):
            policy = MiMo(shape)
        groups = group_parameters(policy)
        momenta = {"matrices": 1, "tables": 2, "vectors": 2, "heads": 2}
        sizes = {name: sum(p.numel() * p.element_size() for p in getattr(groups, name).values()) for name in momenta}
        weights = sum(sizes.values())
        drafts = self.engine.max_draft
        return {
            "weights": weights,
            "gradients": weights,
            "optimisers": sum(size * momenta[name] for name, size in sizes.items()),
            "engine_weights": weights,
            "kv_per_sequence": memory_bytes(
                shape, self.engine.max_context, spare=drafts, heads=drafts, element_bytes=policy.lm_head.weight.itemsize
            ),
        }


def load_train_config(file: Path) -> TrainConfig:
    """Read a TOML file. Raises ``ConfigError`` with one sentence that names the key."""
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise _unreadable(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(f"{file} is not valid TOML: {error}") from error
    return parse_train_config(values)


def parse_train_config(values: dict[str, Any]) -> TrainConfig:
    """A checked configuration from plain values. Raises ``ConfigError``."""
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(".".join(str(part) for part in first["loc"]), first["msg"].lower()) from error
    config.check()
    return config


def locate(path: str) -> Callable[..., Any]:
    """What ``package.module:callable`` names. Raises ``ConfigError``."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # the boundary to code of the user's own
        raise _refused("source.path", f"{path!r} cannot be imported ({error})") from error
    if not callable(found):
        raise _refused("source.path", f"{path!r} cannot be called")
    return found


def _refused(key: str, why: str) -> ConfigError:
    return _unreadable(f"key '{key}' cannot be used: {why}")


def _unreadable(why: str) -> ConfigError:
    return ConfigError(
        f"The training configuration cannot be used: {why}.",
        reason=Reason.config,
        phase="config",
        remedy="See docs/training.md for the keys and their values.",
    )
