"""What one seed of the comparison trains: reinforcement learning, and as many seconds of further bring-up."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from envfarm_rl.policy import MiMo, load_policy, save_policy
from envfarm_rl.repair.corpus import Example, read_examples
from envfarm_rl.repair.recipe import BringupRecipe
from envfarm_rl.repair.train import Bringup
from envfarm_rl.trainer.config import parse_train_config
from envfarm_rl.trainer.run import Run

from envfarm.wiring.repair.bringup import corpus_files

from .repair_table import RECORD, RUNS


@dataclass(frozen=True)
class Trained:
    """Of one seed: folders of policies, and what it took."""

    rl: Path
    further: Path
    rl_four: Path
    wall_sec: float
    """Of reinforcement learning, both stages; the further bring-up got as many."""
    bringup_steps: int


def train_seeds(arguments: argparse.Namespace) -> list[Trained]:
    """All seeds, ``arguments.jobs`` at once, each in a process of its own. What a seed has trained is kept below
    ``arguments.out`` and not trained again."""
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        return list(pool.map(train_seed, [arguments] * arguments.seeds, range(arguments.seeds)))


def train_seed(arguments: argparse.Namespace, seed: int) -> Trained:
    """The three policies of a seed. Without steps of four test runs, the policy of one run is the third as well."""
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.out) / f"seed-{seed}"
    rl, further, four = (folder / name for name in ("rl", "further", "rl-four"))
    if not (rl / METRICS).exists():
        reinforce(arguments, seed, 0, rl)
    wall = (
        arguments.expected_sec
        + arguments.last_sec
        + sum(json.loads(line)["seconds"][part] for line in (rl / METRICS).open() for part in ("rollout", "train"))
    )
    if not (further / "steps").exists():
        bring_further(arguments, seed, wall, further)
    steps = int((further / "steps").read_text())
    if not arguments.four_steps:
        four = rl
    elif not (four / METRICS).exists():
        reinforce(arguments, seed, RUNS, four)
    print(f"seed {seed}: {wall:.0f} s each, {steps} steps of further bring-up", file=sys.stderr)
    return Trained(rl, further, four, wall, steps)


METRICS = "metrics.jsonl"


def reinforce(arguments: argparse.Namespace, seed: int, runs: int, folder: Path) -> None:
    """Reinforcement learning, MTP on; the policy and its metrics are left in ``folder``. First on the verdicts of the
    train run; then, for so many seconds as are asked for, on planted bugs whose answers are known, by the expected
    reward and a share of likelihood; last, at low rates, by the expected reward alone. In this order the later stages,
    whose pages never come again, make good what the first learned by heart; the likelihood, on the pages of the
    control, keeps the likeliest answer."""
    at = Path(arguments.checkpoint)
    stages = [
        (arguments.expected_sec, arguments.expected_share, arguments.control_share),
        (arguments.last_sec, 1.0, 0.05),
    ]
    stages = [each for each in stages if each[0]]
    made = [folder.with_name(f"{folder.name}-{number}") for number in range(len(stages))] + [folder]
    if not (made[0] / METRICS).exists():
        learn_verdicts(arguments, seed, runs, at, made[0])
    for number, (seconds, reward, share) in enumerate(stages):
        begin, end = made[number : number + 2]
        if not (end / "steps").exists():
            # other pages in each stage
            bring_further(arguments, seed + 1000 * number, seconds, end, reward=reward, begin=begin, share=share)
    if stages:
        shutil.copy(made[0] / METRICS, folder)


def learn_verdicts(arguments: argparse.Namespace, seed: int, runs: int, begin: Path, folder: Path) -> None:
    """From the policy in ``begin``, with ``runs`` test runs (0: one edit); policy and metrics stay in ``folder``."""
    steps, groups = (arguments.four_steps, arguments.four_groups) if runs else (arguments.steps, arguments.groups)
    if not steps:
        save_policy(policy_of(begin), folder)
        (folder / METRICS).touch()
        return
    context = arguments.four_context if runs else arguments.context
    record = Path(arguments.home) / RECORD
    config = parse_train_config(
        {
            "policy": {"path": str(begin)},
            "engine": {"max_draft": 3, "adaptive": False, "max_context": context},
            "algorithm": {"name": arguments.algorithm, "response_tokens": 8, "row_tokens": context},
            "optimiser": {
                "lr": arguments.lr, "vector_scale": arguments.vector_scale, "lr_heads": 1e-3, "warmup": 3,
            },
            "heads": {"online": arguments.train_heads},
            "rollout": {"groups": groups, "group_size": arguments.group_size},
            "run": {"steps": steps, "checkpoint_every": steps, "seed": seed, "keep": 1},
            "source": {
                "path": "envfarm.wiring.repair.training:source",
                "options": {
                    "run": arguments.train, "home": arguments.home, "record": str(record), "runs": runs,
                    "tokenizer": str(Path(arguments.checkpoint) / "tokenizer.json"),
                },
            },
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        run = Run(Path(scratch) / "run", config)
        asyncio.run(run.run())
        save_policy(run.policy, folder)
        shutil.copy(Path(scratch) / "run" / METRICS, folder / METRICS)


def recipe_of(arguments: argparse.Namespace) -> BringupRecipe:
    """By which the checkpoint was made."""
    return BringupRecipe.model_validate_json((Path(arguments.checkpoint) / "recipe.json").read_text())


def corpus_examples(arguments: argparse.Namespace) -> Iterator[Example]:
    """What the bring-up was trained on."""
    for path in corpus_files(Path(arguments.corpus), "train", recipe_of(arguments).corpus.train):
        yield from read_examples(path)


def bring_further(
    arguments: argparse.Namespace,
    seed: int,
    seconds: float,
    folder: Path,
    *,
    reward: float = 0.0,
    begin: Path | None = None,
    share: float = 0.0,
) -> None:
    """The checkpoint, or the policy in ``begin``, after so many more seconds on the bring-up's pages, left in
    ``folder`` with the steps taken. ``reward`` is the share of the expected reward in what is maximised, ``share`` that
    of the peak rates at first."""
    recipe = recipe_of(arguments)
    # steps as small as one thread takes them; the recipe's own may be those of a GPU
    steps = recipe.training.model_copy(update={"tokens": arguments.control_tokens, "half": False})
    files = corpus_files(Path(arguments.corpus), "train", recipe.corpus.train)
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        shutil.copy(Path(arguments.checkpoint) / "tokenizer.json", scratch)
        control = Bringup(recipe.model_copy(update={"training": steps}), files, [], Path(scratch), pages=0)
        control.policy.load_state_dict(policy_of(begin or Path(arguments.checkpoint)).state_dict())
        taken = control.extend(seconds, share=share or arguments.control_share, seed=seed, reward=reward)
        save_policy(control.policy, folder)
    (folder / "steps").write_text(str(taken))


def policy_of(folder: Path) -> MiMo:
    """In single precision."""
    return load_policy(folder, dtype=torch.float32)
