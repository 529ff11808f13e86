"""The training configuration: what is refused, in one sentence, and what it says it will take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from envfarm_rl.trainer.config import TrainConfig, load_train_config
from envfarm_rl.trainer.optimisers import Optimisers
from pydantic import BaseModel

from envfarm.core.errors import ConfigError

from .training import config

TOML = """
[policy.shape]
hidden_size = 32
num_nextn_predict_layers = 1
num_hidden_layers = 1

[engine]
max_draft = 1

[optimiser]
lr = 1e-3

[source]
path = "envfarm_rl.trainer.digits:Digits"
options = {base = 3}
"""


def test_a_file_is_read_and_resolved(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text(TOML, "utf-8")
    read = load_train_config(file)
    assert read.optimiser.lr == 1e-3 and read.source.options == {"base": 3}
    values = read.resolved()
    assert values["rollout"] == {"groups": 8, "group_size": 8, "staleness": 0}
    assert TrainConfig.model_validate(values) == read


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"rollout": {"group": 3}}, "rollout.group"),
        ({"optimiser": {"rate": 3}}, "optimiser.rate"),
        ({"nothing": {"x": 1}}, "nothing"),
        ({"rollout": {"staleness": 2}}, "rollout.staleness"),
        ({"rollout": {"group_size": 1}}, "rollout.group_size"),
        ({"engine": {"temperature": 0.0}}, "engine.temperature"),
        ({"engine": {"max_draft": 4}}, "3 MTP heads"),
        ({"algorithm": {"row_tokens": 31}}, "algorithm.row_tokens"),
        ({"algorithm": {"name": "magic"}}, "no algorithm 'magic'"),
        ({"source": {"path": "no.such.module:Name"}}, "source.path"),
        ({"source": {"path": "envfarm_rl.trainer.digits"}}, "source.path"),
        ({"source": {"path": "envfarm_rl.trainer.digits:ASK"}}, "cannot be called"),
        ({"policy": {"shape": {"hidden_act": "gelu"}}}, "hidden_act"),
        ({"policy": {"path": "/nowhere"}}, "there is no"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        config(**sections)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[policy", None])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "train.toml"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"train\.toml"):
        load_train_config(file)


def test_every_field_says_what_it_is() -> None:
    def undescribed(model: type[BaseModel]) -> list[str]:
        return [f"{model.__name__}.{name}" for name, field in model.model_fields.items() if not field.description]

    sections = [field.annotation for field in TrainConfig.model_fields.values()]
    models = [each for each in sections if isinstance(each, type) and issubclass(each, BaseModel)]
    assert len(models) >= 7
    assert [name for model in (TrainConfig, *models) for name in undescribed(model)] == []


def test_the_memory_estimate_is_what_tensors_take() -> None:
    chosen = config()
    policy = chosen.load_policy()
    optimisers = Optimisers(policy, chosen.optimiser)
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimisers.step_policy(0)
    optimisers.step_heads(0)
    states = [
        tensor
        for each in optimisers.state_dict().values()
        for state in each["state"].values()
        for name, tensor in state.items()
        if name != "step"
    ]
    estimate = chosen.memory_estimate()
    assert estimate["weights"] == sum(each.numel() * each.element_size() for each in policy.parameters())
    assert estimate["optimisers"] == sum(each.numel() * each.element_size() for each in states)
    longer = config(engine={"max_context": 64}).memory_estimate()
    assert longer["kv_per_sequence"] - estimate["kv_per_sequence"] == 32 * 1 * (8 + 8) * 4, "one global layer grows"
