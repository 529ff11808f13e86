"""The shape of a policy, read from a hub-style ``config.json`` of MiMo-V2-Flash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from envfarm.core.errors import ConfigError, Reason

GLOBAL, WINDOW = 0, 1
"""Values of ``hybrid_layer_pattern``."""


class MiMoConfig(BaseModel):
    """Names and defaults are those of the released model. Keys that say nothing about the shape are kept in ``rest``
    and written back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = 152576
    hidden_size: int = 4096
    intermediate_size: int = 16384
    """Of dense layers and of the MTP heads."""
    moe_intermediate_size: int = 2048
    num_hidden_layers: int = 48
    num_attention_heads: int = 64
    num_key_value_heads: int = 4
    swa_num_attention_heads: int = 64
    swa_num_key_value_heads: int = 8
    head_dim: int = 192
    """Of queries and keys."""
    v_head_dim: int = 128
    partial_rotary_factor: float = 0.334
    rope_theta: float = 5_000_000.0
    swa_rope_theta: float = 10_000.0
    sliding_window: int = 128
    window_includes_self: bool = True
    """A query sees ``sliding_window`` keys with its own among them; otherwise its own beside them. No published text
    settles which of the two the release was trained with (servers and ports differ), so it is a choice."""
    hybrid_layer_pattern: tuple[int, ...] = ()
    """One of :data:`GLOBAL`, :data:`WINDOW` for each layer; empty means the released rule."""
    moe_layer_freq: tuple[int, ...] = ()
    """1 where a layer has experts; empty means all but the first."""
    n_routed_experts: int = 256
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    attention_value_scale: float = 0.707
    add_swa_attention_sink_bias: bool = True
    add_full_attention_sink_bias: bool = False
    layernorm_epsilon: float = 1e-5
    max_position_embeddings: int = 262144
    initializer_range: float = 0.02
    num_nextn_predict_layers: int = 3
    """MTP heads."""
    rest: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> MiMoConfig:
        layers = self.num_hidden_layers
        if not self.hybrid_layer_pattern:
            pattern = tuple(GLOBAL if i == 0 or (i + 1) % 6 == 0 else WINDOW for i in range(layers))
            object.__setattr__(self, "hybrid_layer_pattern", pattern)
        if not self.moe_layer_freq:
            object.__setattr__(self, "moe_layer_freq", (0, *(1 for _ in range(layers - 1))))
        for name in ("hybrid_layer_pattern", "moe_layer_freq"):
            value = getattr(self, name)
            if len(value) != layers or set(value) - {0, 1}:
                raise ValueError(f"{name} must hold {layers} values of 0 or 1")
        for heads, groups in (
            (self.num_attention_heads, self.num_key_value_heads),
            (self.swa_num_attention_heads, self.swa_num_key_value_heads),
        ):
            if heads % groups:
                raise ValueError(f"{heads} query heads cannot share {groups} key heads")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(f"{self.rotary_dim} of {self.head_dim} dimensions cannot be rotated in pairs")
        if not 0 < self.num_experts_per_tok <= self.n_routed_experts:
            raise ValueError(f"{self.num_experts_per_tok} of {self.n_routed_experts} experts cannot be chosen")
        return self

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a query or key head that are rotated, the first ones."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def window(self) -> int:
        """Keys that a query of a window layer sees, its own included."""
        return self.sliding_window + (0 if self.window_includes_self else 1)

    def key_value_heads(self, kind: int) -> int:
        """Key/value heads of a layer of that kind."""
        return self.swa_num_key_value_heads if kind == WINDOW else self.num_key_value_heads

    def query_heads(self, kind: int) -> int:
        """Query heads of a layer of that kind."""
        return self.swa_num_attention_heads if kind == WINDOW else self.num_attention_heads

    def has_sinks(self, kind: int) -> bool:
        """Whether layers of that kind have attention sinks."""
        return self.add_swa_attention_sink_bias if kind == WINDOW else self.add_full_attention_sink_bias

    def theta(self, kind: int) -> float:
        """RoPE base of layers of that kind."""
        return self.swa_rope_theta if kind == WINDOW else self.rope_theta


_FIXED = {
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "n_group": (1, None),
    "topk_group": (1, None),
    "n_shared_experts": (None, 0),
    "rope_scaling": (None,),
    "model_type": ("mimo_v2_flash",),
}
"""Keys whose other values this code does not implement: they are refused, never ignored."""
_KIND = {"architectures": ["MiMoV2FlashForCausalLM"], "model_type": "mimo_v2_flash"}
_SAME = {"swa_head_dim": "head_dim", "swa_v_head_dim": "v_head_dim", "sliding_window_size": "sliding_window"}


def from_hub(values: dict[str, Any]) -> MiMoConfig:
    """A config from the keys of a hub ``config.json``. Raises ``ConfigError`` for shapes that cannot be built."""
    for key, allowed in _FIXED.items():
        if key in values and values[key] not in allowed:
            raise _refused(f"{key} = {values[key]!r} is not what MiMo-V2-Flash has ({allowed[0]!r})")
    for key, twin in _SAME.items():
        if key in values and twin in values and values[key] not in (values[twin], None):
            raise _refused(f"{key} = {values[key]} differs from {twin} = {values[twin]}")
    fields = set(MiMoConfig.model_fields) - {"rest"}
    known = {key: value for key, value in values.items() if key in fields and value is not None}
    if "num_nextn_predict_layers" not in known:
        known["num_nextn_predict_layers"] = 3
    rest = {key: value for key, value in values.items() if key not in fields and _KIND.get(key) != value}
    try:
        return MiMoConfig(**known, rest=rest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(f"{where}: {first['msg']}" if where else first["msg"]) from error


def to_hub(config: MiMoConfig) -> dict[str, Any]:
    """The keys of a hub ``config.json``."""
    values = config.model_dump(mode="json", exclude={"rest"})
    return {**_KIND, **config.rest, **values}


def read_config(folder: Path) -> MiMoConfig:
    """``config.json`` of a checkpoint folder. Raises ``ConfigError``."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise _refused(f"there is no {path}") from error
    except (OSError, ValueError) as error:
        raise _refused(f"{path} cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise _refused(f"{path} holds no object")
    return from_hub(values)


def _refused(why: str) -> ConfigError:
    return ConfigError(
        f"The policy's configuration cannot be used: {why}.",
        reason=Reason.config,
        phase="policy",
        remedy="Give a config.json of the MiMo-V2-Flash family.",
    )
