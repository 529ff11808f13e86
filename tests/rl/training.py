"""A tiny run for the trainer's tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from envfarm_rl.policy import GLOBAL, WINDOW
from envfarm_rl.samples import Episode, EpisodeGroup, Outcome
from envfarm_rl.trainer.config import TrainConfig, parse_train_config
from envfarm_rl.trainer.digits import Digits

SHAPE = {
    "vocab_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "head_dim": 8,
    "v_head_dim": 8, "partial_rotary_factor": 0.5, "sliding_window": 8, "num_nextn_predict_layers": 3,
    "hybrid_layer_pattern": [GLOBAL, WINDOW], "moe_layer_freq": [0, 0], "initializer_range": 0.1,
}  # fmt: skip


def config(**sections: dict[str, Any]) -> TrainConfig:
    """Small and quick; ``sections`` are laid over it."""
    values: dict[str, dict[str, Any]] = {
        "policy": {"shape": SHAPE},
        "engine": {"max_context": 32},
        "algorithm": {"row_tokens": 64, "response_tokens": 2},
        "optimiser": {"lr": 5e-3, "lr_heads": 3e-3},
        "rollout": {"groups": 4, "group_size": 4},
        "run": {"steps": 4, "checkpoint_every": 2, "seed": 1},
        "source": {"path": "envfarm_rl.trainer.digits:Digits", "options": {"base": 3, "length": 2}},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_train_config(values)


def records(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [
        {name: value for name, value in each.items() if name not in ("seconds", "tokens_per_sec")} for each in found
    ]


class Faulty(Digits):
    """Digits in which some episodes meet a fault, and which counts its batches: a state to be restored."""

    batches = 0

    async def collect(self, tasks: Any, group_size: int, *, step: int, seed: int) -> list[EpisodeGroup]:
        self.batches += 1
        groups = await super().collect(tasks, group_size, step=step, seed=seed)
        return [
            EpisodeGroup(g.task, tuple(self._fault(e, place) for e in g.episodes)) for place, g in enumerate(groups)
        ]

    def _fault(self, episode: Episode, place: int) -> Episode:
        faulty = (episode.index + place + self.batches) % 5 == 0
        return replace(episode, outcome=Outcome.infra, reason="box_lost") if faulty else episode

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state: Any) -> None:
        self.batches = state["batches"]
