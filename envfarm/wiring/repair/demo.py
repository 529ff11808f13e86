"""The learning part of the demo: a few steps of reinforcement learning on tasks that were just built, and what it, the
bring-up and chance repair of tasks of other packages; MTP on against off."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.requests import Request
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.engine.service import EngineService
from envfarm_rl.jobs import registry
from envfarm_rl.policy import MiMo, load_policy
from envfarm_rl.repair.prompt import opening, stop, valid
from envfarm_rl.repair.protocol import State, calls
from envfarm_rl.repair.random_policy import RandomValid
from envfarm_rl.repair.shipped import shipped_checkpoint
from envfarm_rl.repair.source import ANSWER_TOKENS, repair_policy
from envfarm_rl.repair.world import RecordedPlayer
from envfarm_rl.samples import Outcome
from envfarm_rl.text.tokenizer import TinyTokenizer, load_tokenizer
from envfarm_rl.trainer.config import TrainConfig, parse_train_config
from envfarm_rl.trainer.run import Run

from envfarm.core.ids import stable_seed
from envfarm.core.ports import Policy
from envfarm.core.stats import bootstrap
from envfarm.telemetry.training import TRAIN, Job

from ..app import App
from .boxes import BoxWorld
from .tasks import RepairTask, repair_tasks

STEPS, GROUPS, GROUP_SIZE = 3, 4, 4
TRIES = 4
"""Episodes of each held-out task for each policy."""
ROUNDS = 3
"""Of the MTP table, on and off in turn."""
CONTEXT = 2048


async def learn(app: App, run: str, *, seed: int) -> dict[str, Any]:
    """``rl``, ``repair`` and ``mtp`` of the report; empty where the run has no tasks of two packages that fit. The
    training run is listed under the build run's name, in place of an earlier one."""
    tasks = await asyncio.to_thread(repair_tasks, app.store, app.blobs, run)
    packages = sorted({each.task.repo_name for each in tasks})
    if len(packages) < 2:
        return {}
    trained_on = packages[: (len(packages) + 1) // 2]
    held_out = [each for each in tasks if each.task.repo_name not in trained_on]
    checkpoint = shipped_checkpoint()
    tokenizer = load_tokenizer(checkpoint / "tokenizer.json")
    config = _config(app, run, checkpoint, trained_on, seed)
    home = app.config.home_path
    shutil.rmtree(home / TRAIN / run, ignore_errors=True)
    folder = registry.create(home, run, config.resolved(), Job())
    registry.claim(home, run)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small a model, more threads only wait for each other
    try:
        trained = Run(folder, config)
        await trained.run(resume=True)
        before = load_policy(checkpoint, dtype=torch.float32)
        return {
            "rl": _rl(folder, trained_on),
            "repair": await _compare(app, held_out, tokenizer, before, trained.policy, seed),
            "mtp": await asyncio.to_thread(mtp_table, trained.policy, tokenizer, tasks, seed),
        }
    finally:
        torch.set_num_threads(threads)


def _config(app: App, run: str, checkpoint: Path, packages: Sequence[str], seed: int) -> TrainConfig:
    return parse_train_config(
        {
            "policy": {"path": str(checkpoint)},
            "engine": {"max_context": CONTEXT, "max_draft": 3},
            "algorithm": {"response_tokens": 8, "row_tokens": CONTEXT},
            "optimiser": {"lr": 2e-4, "lr_heads": 1e-3},
            "rollout": {"groups": GROUPS, "group_size": GROUP_SIZE},
            "run": {"steps": STEPS, "checkpoint_every": STEPS, "seed": seed},
            "source": {
                "path": "envfarm.wiring.repair.training:source",
                "options": {
                    "run": run, "home": str(app.config.home_path), "packages": list(packages),
                    "tokenizer": str(checkpoint / "tokenizer.json"), "concurrency": app.config.build.workers,
                },
            },
        }
    )  # fmt: skip


def _rl(folder: Path, packages: Sequence[str]) -> dict[str, Any]:
    rows = [orjson.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    masked: dict[str, int] = {}
    for row in rows:
        for reason, count in row["masked"].items():
            masked[reason] = masked.get(reason, 0) + count
    return {
        "steps": len(rows),
        "rewards": [row["reward"] for row in rows],
        "launched": sum(row["launched"] for row in rows),
        "scored": sum(row["scored"] for row in rows),
        "masked": masked,
        "unscorable": sum(row["unscorable"] for row in rows),
        "accepted_length": [row["accepted_length"] for row in rows],
        "trained_on": list(packages),
    }


async def _compare(
    app: App, tasks: Sequence[RepairTask], tokenizer: TinyTokenizer, before: MiMo, after: MiMo, seed: int
) -> dict[str, Any]:
    """Chance to pass with one valid edit on held-out tasks. Each distinct edit runs in a real box once."""
    problems = {each.task.id: each.problem for each in tasks}
    world = BoxWorld(app, tasks, concurrency=app.config.build.workers)
    player = RecordedPlayer(problems, world)

    async def rates(make: Callable[[str, str], Policy], service: EngineService | None) -> list[float]:
        async def one(task: str, index: int) -> bool:
            key = f"{task}.{index}"
            policy = make(task, key)
            if service is None:
                return (await player.played(task, policy)).outcome is Outcome.passed
            async with service.episode(key):
                return (await player.played(task, policy)).outcome is Outcome.passed

        found = await asyncio.gather(*(one(task, index) for task in problems for index in range(TRIES)))
        return [sum(found[at : at + TRIES]) / TRIES for at in range(0, len(found), TRIES)]

    def drawn(policy: MiMo) -> tuple[Callable[[str, str], Policy], EngineService]:
        service = EngineService(EmbeddedEngine(policy, max_context=CONTEXT, max_draft=3, adaptive=False))
        return (
            lambda task, key: repair_policy(
                service, tokenizer, problems[task], key=key, seed=seed, sampling=Sampling(), runs=0
            )
        ), service

    table: dict[str, Any] = {"tasks": len(problems), "packages": sorted({each.task.repo_name for each in tasks})}
    chance = await rates(
        lambda task, key: RandomValid(problems[task], seed=stable_seed("random-edit", key, seed)), None
    )
    for name, values in (
        ("random-edit", chance),
        ("bring-up", await rates(*drawn(before))),
        ("trained", await rates(*drawn(after))),
    ):
        mean, low, high = bootstrap(values)
        table[name] = {"pass_at_1": mean, "interval": [low, high], "episodes": len(values) * TRIES}
    return {**table, "edits_run": world.ran, "edits_asked": world.asked, "hit_rate": world.hit_rate}


def mtp_table(policy: MiMo, tokenizer: TinyTokenizer, tasks: Sequence[RepairTask], seed: int) -> dict[str, Any]:
    """The same prompts with speculation on and off, in turn: tokens per second and accepted length."""
    problems = [each.problem for each in tasks]

    def requests(turn: int) -> list[Request]:
        return [
            Request(
                prompt=tuple(tokenizer.encode(opening(problem))),
                max_tokens=ANSWER_TOKENS,
                stop=stop(tokenizer),
                constraint=valid(tokenizer, calls(problem, State(runs=0))),
                seed=seed + turn,
                id=str(index),
            )
            for index, problem in enumerate(problems)
        ]

    engines: Mapping[str, EmbeddedEngine] = {
        name: EmbeddedEngine(policy, max_context=CONTEXT, max_draft=drafts, adaptive=False)
        for name, drafts in (("on", 3), ("off", 0))
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    emitted: dict[str, list[int]] = {name: [] for name in engines}
    for turn in range(ROUNDS + 1):  # the first only warms up
        for name, engine in engines.items():
            asked = requests(turn)
            began = time.perf_counter()
            found = engine.generate(asked)
            if turn:
                seconds[name].append(time.perf_counter() - began)
                emitted[name].append(sum(len(each.tokens) for each in found))
    return {
        name: {
            "tokens_per_sec": sum(emitted[name]) / sum(seconds[name]),
            "accepted_length": engine.acceptance.accepted_length,
            "survival": list(engine.acceptance.survival),
            "tokens": sum(emitted[name]),
        }
        for name, engine in engines.items()
    }
