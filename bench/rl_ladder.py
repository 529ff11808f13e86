"""The ladder's middle rungs: one task, then sixteen, learned by RL alone through the real engine with drafts on.

    python bench/rl_ladder.py [--seeds 3] [--json]

From random weights, a policy of about 50k parameters learns to repeat digits; rewards are pass or fail, nothing else.
Figures are pass@1 over a rung's own training tasks, at temperature 1 (mean of the last three steps) and greedily by the
final checkpoint: the question is whether the line learns at all, not whether what it learned carries over.

Each rung and seed runs twice, with the MTP heads trained on every batch and frozen: accepted length (tokens for each
verification, mean of the last quarter of the steps) must not be lower where they are trained.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.policy import GLOBAL, WINDOW, load_policy
from envfarm_rl.trainer.config import parse_train_config
from envfarm_rl.trainer.digits import Digits
from envfarm_rl.trainer.run import Run

SHAPE = {
    "vocab_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "head_dim": 12,
    "v_head_dim": 12, "partial_rotary_factor": 0.5, "sliding_window": 8, "num_nextn_predict_layers": 3,
    "hybrid_layer_pattern": [GLOBAL, WINDOW], "moe_layer_freq": [0, 0], "initializer_range": 0.1,
}  # fmt: skip
RUNGS: dict[str, dict[str, Any]] = {
    "one task": {
        "options": {"base": 4, "length": 3, "count": 1}, "groups": 1, "group_size": 64, "steps": 140,
        "advantages": "dr_grpo",
    },
    # max_rl: by Dr.GRPO's advantages answers can collapse before a task's first reward, which then weighs no more than
    # any other (one seed of seven ended at 14 tasks of 16)
    "sixteen tasks": {
        "options": {"base": 4, "length": 2}, "groups": 16, "group_size": 32, "steps": 110, "advantages": "max_rl",
    },
}  # fmt: skip
BARS = {"one task": (0.99, 1.0), "sixteen tasks": (0.95, 0.95)}
"""At temperature 1, where no softmax gives all its mass to one answer, and greedily."""


def climb(rung: str, seed: int, folder: Path, *, online: bool) -> dict[str, Any]:
    """Run a rung, with heads trained or frozen; its figures over the last three steps."""
    spec, began = RUNGS[rung], time.monotonic()
    config = parse_train_config(
        {
            "policy": {"shape": SHAPE},
            "engine": {"max_context": 16, "max_draft": 3},
            "algorithm": {
                "row_tokens": 64, "response_tokens": spec["options"]["length"], "advantages": spec["advantages"],
            },
            "optimiser": {"lr": 3e-3, "lr_heads": 3e-3},
            "heads": {"loss": "soft_cross_entropy", "online": online},
            "rollout": {"groups": spec["groups"], "group_size": spec["group_size"]},
            "run": {"steps": spec["steps"], "checkpoint_every": spec["steps"], "keep": 1, "seed": seed},
            "source": {"path": "envfarm_rl.trainer.digits:Digits", "options": spec["options"]},
        }
    )  # fmt: skip
    asyncio.run(Run(folder, config).run())
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    last, quarter = steps[-3:], steps[-len(steps) // 4 :]
    reached = [each["step"] + 1 for each in steps if each["pass_at_1"] >= BARS[rung][1]]
    return {
        "rung": rung,
        "seed": seed,
        "bar": BARS[rung],
        "first": steps[0]["pass_at_1"],
        "last": sum(each["pass_at_1"] for each in last) / len(last),
        "greedy": greedy(folder, spec["options"]),
        "reached_at_step": reached[0] if reached else None,
        "accepted_length": [
            steps[0]["accepted_length"],
            sum(each["accepted_length"] for each in quarter) / len(quarter),
        ],
        "max_logprob_gap": max(each.get("max_logprob_gap", 0.0) for each in steps),
        "curve": [round(each["pass_at_1"], 3) for each in steps],
        "seconds": time.monotonic() - began,
    }


def greedy(folder: Path, options: dict[str, Any]) -> float:
    """Share of a rung's tasks that the last checkpoint's likeliest tokens solve."""
    latest = (folder / "checkpoints/latest").read_text("utf-8").strip()
    engine = EmbeddedEngine(load_policy(folder / "checkpoints" / latest / "policy"), max_context=16)
    source = Digits(engine=engine, sampling=Sampling(temperature=0), **options)
    groups = asyncio.run(source.collect(source.tasks, 1, step=0, seed=0))
    return sum(group.episodes[0].reward for group in groups) / len(groups)


def main() -> None:
    """Print a line for each rung and seed; exit 1 where one stays below its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    below = False
    for rung in RUNGS:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                frozen = climb(rung, seed, Path(folder) / "frozen", online=False)
                found = climb(rung, seed, Path(folder) / "online", online=True)
            found["accepted_length_frozen"] = frozen["accepted_length"][1]
            below |= found["last"] < found["bar"][0] or found["greedy"] < found["bar"][1]
            below |= found["accepted_length"][1] < found["accepted_length_frozen"]
            if given.json:
                print(json.dumps(found), flush=True)
                continue
            before, after = found["accepted_length"]
            print(
                f"{rung:14} seed {seed}: pass@1 {found['first']:.3f} -> {found['last']:.3f}, "
                f"greedy {found['greedy']:.3f} (bars {found['bar']}, step {found['reached_at_step']}), "
                f"accepted length {before:.2f} -> {after:.2f} (frozen heads {found['accepted_length_frozen']:.2f}), "
                f"max |dlogp| {found['max_logprob_gap']:.1e}, {found['seconds']:.0f} s",
                flush=True,
            )
    sys.exit(1 if below else 0)


if __name__ == "__main__":
    main()
