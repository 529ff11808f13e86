"""Does training help? Repair on held-out packages, in real boxes and with real tests, against random valid edits.

    python -m bench.rl_repair --home HOME --checkpoint DIR --corpus DIR --train RUN ... --held-out RUN ...

``RUN`` (or ``RUN:PACKAGE,PACKAGE``) are build runs of ``HOME`` (``envfarm build pypi:NAME ... --synth N --no-history
--run RUN``): the packages of ``--train`` give verdicts in training, those of ``--held-out`` are never trained on, nor
were they by the recipe of the checkpoint.

Every valid edit of every task is put to a real box once (``HOME/repair/record.jsonl`` keeps what came): the shown
test runs there, and where it passes the real grader judges. On that table policies are measured exactly, not by draws:
the chance of a policy's first edit is the product of its token probabilities under the validity mask. The mask is the
one rule for every policy and for the random baseline: an edit applies and parses, and none is made twice in an episode.

1. One test run: chance to pass (temperature of each policy chosen on the train run), minus that of a random valid edit.
2. Reinforcement learning against as many seconds of further bring-up from the same checkpoint, at temperature 1,
   greedy, and with eight independent tries.
3. Four test runs: episodes through the engine (edit, run, take back, next), edits drawn as wholes from the law of the
   first page, against random edits without repetition.

Beside chance stands a blind baseline: how often each kind of change was right in the corpus, the page unread.
Intervals are 95 % of a bootstrap over tasks, seeds pooled within a task.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.engine.service import EngineService
from envfarm_rl.policy import MiMo
from envfarm_rl.repair.encode import edit_laws
from envfarm_rl.repair.frequencies import Frequencies
from envfarm_rl.repair.source import repair_policy
from envfarm_rl.repair.world import RecordedPlayer, Tried
from envfarm_rl.samples import Outcome
from envfarm_rl.text.tokenizer import TinyTokenizer, load_tokenizer

from envfarm.core.stats import bootstrap

from .repair_seeds import corpus_examples, policy_of, train_seeds
from .repair_table import RUNS, Row, chance, chance_of_four, drawn_four, table

GREEDY, DRAWN = 1e-3, 1.0
GRID = (GREEDY, 0.25, 0.5, 0.7, DRAWN)
"""Temperatures a policy may choose from."""
MANY = 9
"""Valid edits from which a function counts as one with many."""
TRIES = 8


@dataclass(frozen=True)
class Scores:
    """Of one policy on each task: the chance that one edit passes, at each temperature of :data:`GRID`."""

    at: dict[float, list[float]]

    @property
    def best(self) -> float:
        """The temperature of the highest chance."""
        return max(GRID, key=lambda temperature: sum(self.at[temperature]))

    @property
    def eight(self) -> list[float]:
        """Chance that at least one of eight independent tries at temperature 1 passes."""
        return [1 - (1 - p) ** TRIES for p in self.at[DRAWN]]


def laws_of(
    policy: MiMo, tokenizer: TinyTokenizer, rows: Sequence[Row], temperatures: Sequence[float]
) -> list[list[torch.Tensor]]:
    """For each temperature, of each page the log-probabilities [edits] of its first answers."""
    found: list[list[torch.Tensor]] = [[] for _ in temperatures]
    for start in range(0, len(rows), 8):
        problems = [row.problem for row in rows[start : start + 8]]
        for laws, part in zip(found, edit_laws(policy, tokenizer, problems, temperatures), strict=True):
            laws += part
    return found


def score(policy: MiMo, tokenizer: TinyTokenizer, rows: Sequence[Row]) -> Scores:
    """Exact, from all valid edits."""
    found = zip(GRID, laws_of(policy, tokenizer, rows, GRID), strict=True)
    return Scores(
        {t: [float(law.exp() @ row.passes) for law, row in zip(laws, rows, strict=True)] for t, laws in found}
    )


async def episodes(
    policy: MiMo,
    tokenizer: TinyTokenizer,
    rows: Sequence[Row],
    laws: Sequence[torch.Tensor],
    *,
    temperature: float,
    each: int,
    seed: int,
) -> list[tuple[float, float]]:
    """Of each task: (share of episodes passed, mean runs), with four runs, through the engine with MTP on. Edits are
    drawn as wholes from the ``laws`` of the tasks' pages."""
    engine = EmbeddedEngine(policy, max_context=4096, max_draft=3, adaptive=False)
    service = EngineService(engine)
    table = {row.task: row for row in rows}
    sampling = Sampling(temperature=temperature)

    class Recorded:
        async def tried(self, task: str, edit: int) -> Tried:
            return table[task].tried[edit]

    player = RecordedPlayer({row.task: row.problem for row in rows}, Recorded(), RUNS)

    async def one(row: Row, law: torch.Tensor, index: int) -> tuple[bool, int]:
        key = f"{row.task}.{index}"
        made = repair_policy(
            service, tokenizer, row.problem, key=key, seed=seed, sampling=sampling, runs=RUNS, law=law
        )  # fmt: skip
        async with service.episode(key):
            played = await player.played(row.task, made)
        engine.forget(key)
        return played.outcome is Outcome.passed, played.runs

    found = []
    for start in range(0, len(rows), 16):
        part = list(zip(rows, laws, strict=True))[start : start + 16]
        flat = await asyncio.gather(*(one(row, law, index) for row, law in part for index in range(each)))
        for place in range(len(part)):
            mine = flat[place * each : (place + 1) * each]
            found.append((sum(p for p, _ in mine) / each, sum(r for _, r in mine) / each))
    return found


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Task by task."""
    return [x - y for x, y in zip(a, b, strict=True)]


def mean_of(lists: Sequence[Sequence[float]]) -> list[float]:
    """Task by task, over seeds."""
    return [sum(values) / len(values) for values in zip(*lists, strict=True)]


async def main(arguments: argparse.Namespace) -> int:
    """Run; 0 when all bars hold."""
    torch.set_num_threads(arguments.threads)
    home = Path(arguments.home)
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    train, held = [await table(home, chosen, arguments.workers) for chosen in (arguments.train, arguments.held_out)]
    many = [index for index, row in enumerate(held) if len(row.problem.edits) >= MANY]
    tokenizer = load_tokenizer(Path(arguments.checkpoint) / "tokenizer.json")
    seeds = train_seeds(arguments)
    policies = {
        "bring-up": [policy_of(Path(arguments.checkpoint))],
        "rl": [policy_of(each.rl) for each in seeds],
        "further bring-up": [policy_of(each.further) for each in seeds],
    }
    several = {"bring-up": policies["bring-up"], "rl, four runs": [policy_of(each.rl_four) for each in seeds]}
    others = {name: Path(folder) for name, _, folder in (each.partition("=") for each in arguments.also)}
    own = {name: load_tokenizer(folder / "tokenizer.json") for name, folder in others.items()}
    scored = policies | {name: [policy_of(folder)] for name, folder in others.items()}
    trained, scores = (
        {name: [score(policy, own.get(name, tokenizer), rows) for policy in found] for name, found in scored.items()}
        for rows in (train, held)
    )
    figures = {
        "tasks": {"train": len(train), "held_out": len(held), "many": len(many)},
        "packages": sorted({row.package for row in held}),
        "wall_sec": [each.wall_sec for each in seeds],
        "bringup_steps": [each.bringup_steps for each in seeds],
        **one_run(trained, scores, Frequencies(corpus_examples(arguments)), train, held, many),
        **against_bringup(scores),
        **await four_runs(several, tokenizer, train, [held[index] for index in many], arguments),
        "arguments": vars(arguments),
    }
    figures["bars"] = bars(figures)
    text = json.dumps(figures, indent=1, default=str)
    print(text)
    if arguments.json:
        Path(arguments.json).write_text(text)
    return 0 if all(bar["holds"] for bar in figures["bars"].values()) else 1


def one_run(trained, scores, blind, train, held, many) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Part 1: every policy at its own temperature, against a random valid edit."""
    base = chance(held)
    rows: dict[str, Any] = {"random": bootstrap(base), "random, many": bootstrap([base[i] for i in many])}

    def unread(rows: Sequence[Row], temperature: float) -> list[float]:
        return [float(blind.law(row.problem, temperature) @ row.passes) for row in rows]

    def against_random(temperatures: list[float], drawn: list[float]) -> dict[str, Any]:
        gain = minus(drawn, base)
        return {
            "temperatures": temperatures, "passes": bootstrap(drawn), "above_random": bootstrap(gain),
            "above_random_many": bootstrap([gain[i] for i in many]),
        }  # fmt: skip

    sharp = max(GRID, key=lambda t: sum(unread(train, t)))
    rows["change frequencies"] = against_random([sharp], unread(held, sharp))
    for name, found in scores.items():
        temperatures = [each.best for each in trained[name]]
        drawn = mean_of([each.at[t] for each, t in zip(found, temperatures, strict=True)])
        rows[name] = against_random(temperatures, drawn)
    return {"one_run": rows}


def against_bringup(scores) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Part 2: reinforcement learning against equal seconds of further bring-up."""
    pick: dict[str, Callable[[Scores], list[float]]] = {
        "drawn": lambda s: s.at[DRAWN], "greedy": lambda s: s.at[GREEDY], "eight": lambda s: s.eight
    }  # fmt: skip
    means = {name: {kind: mean_of([f(s) for s in found]) for kind, f in pick.items()} for name, found in scores.items()}
    return {
        "levels": {name: {kind: bootstrap(values) for kind, values in kinds.items()} for name, kinds in means.items()},
        "rl_minus_bringup": {
            kind: bootstrap(minus(means["rl"][kind], means["further bring-up"][kind])) for kind in pick
        },
        "rl_minus_before": {kind: bootstrap(minus(means["rl"][kind], means["bring-up"][kind])) for kind in pick},
    }


async def four_runs(policies, tokenizer, train, many, arguments) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Part 3, on functions with many edits that have a test to be run: as in part 1, every policy at the temperature
    that was best on the train run."""
    many = [row for row in many if row.problem.shown_test]
    tuning = [row for row in train if row.problem.shown_test and len(row.problem.edits) >= MANY]
    base = [chance_of_four(row) for row in many]
    found: dict[str, Any] = {"tasks": len(many), "tuned_on": len(tuning)}
    for name, trained in policies.items():
        temperatures, per_seed = [], []
        for seed, policy in enumerate(trained):
            (known,), (laws,) = (laws_of(policy, tokenizer, rows, (DRAWN,)) for rows in (tuning, many))
            at = max(GRID, key=lambda t: sum(map(partial(drawn_four, temperature=t), tuning, known)))
            each = 1 if at == GREEDY else arguments.each
            per_seed.append(await episodes(policy, tokenizer, many, laws, temperature=at, each=each, seed=seed))
            temperatures.append(at)
        solved = mean_of([[p for p, _ in rows] for rows in per_seed])
        runs = mean_of([[r for _, r in rows] for rows in per_seed])
        found[name] = {
            "temperatures": temperatures,
            "passes_many": bootstrap(solved),
            "above_random_many": bootstrap(minus(solved, [p for p, _ in base])),
            "runs_per_solved_many": sum(runs) / max(sum(solved), 1e-9),
        }
    found["random"] = {
        "passes_many": bootstrap([p for p, _ in base]),
        "runs_per_solved_many": sum(r for _, r in base) / max(sum(p for p, _ in base), 1e-9),
    }
    return {"four_runs": found}


def bars(figures: dict[str, Any]) -> dict[str, Any]:
    """The issue's, with what was measured: value, interval where it counts, and whether it holds."""
    best, four = figures["one_run"]["rl"], figures["four_runs"]
    gained, lost = figures["rl_minus_bringup"], figures["rl_minus_before"]
    trained, chance_ = four["rl, four runs"], four["random"]
    found = {
        "one run, above random >= 0.10": (best["above_random"], 0.10, True),
        "one run, many edits, above random >= 0.08": (best["above_random_many"], 0.08, True),
        "rl minus bring-up, drawn >= 0.05": (gained["drawn"], 0.05, False),
        "rl minus bring-up, greedy >= -0.01": (gained["greedy"], -0.01, False),
        "rl minus before, eight tries >= -0.05": (lost["eight"], -0.05, False),
        "four runs, many edits, above random >= 0.08": (trained["above_random_many"], 0.08, True),
    }
    table_ = {
        name: {"value": value, "holds": value[0] >= least and (value[1] > 0 or not strict)}
        for name, (value, least, strict) in found.items()
    }
    runs = trained["runs_per_solved_many"], chance_["runs_per_solved_many"]
    return {**table_, "four runs, fewer runs per solved": {"value": runs, "holds": runs[0] < runs[1]}}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", required=True)
    parser.add_argument("--checkpoint", required=True, help="folder of the bring-up's checkpoint")
    parser.add_argument("--corpus", required=True, help="folder of the corpus, for the control")
    parser.add_argument(
        "--train",
        nargs="+",
        required=True,
        help="build runs whose verdicts are trained on; packages, if any, hold for all",
    )
    parser.add_argument("--held-out", nargs="+", required=True, help="build runs that are measured on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="seeds trained at once")
    parser.add_argument("--steps", type=int, default=24, help="on verdicts")
    parser.add_argument(
        "--expected-sec", type=float, default=0.0, help="seconds on planted bugs by expected reward, after the verdicts"
    )
    parser.add_argument(
        "--expected-share", type=float, default=0.75, help="of the expected reward there; the rest is likelihood"
    )
    parser.add_argument("--last-sec", type=float, default=0.0, help="seconds by expected reward alone, at low rates")
    parser.add_argument("--train-heads", action="store_true", help="MTP heads beside the policy; a third more time")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a row, with one test run")
    parser.add_argument(
        "--four-steps", type=int, default=8, help="with four test runs; 0 plays them with the policy of one"
    )
    parser.add_argument("--four-groups", type=int, default=8)
    parser.add_argument("--four-context", type=int, default=1536)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--vector-scale", type=float, default=1.0, help="rate of norms and sinks, in rates of --lr")
    parser.add_argument("--algorithm", default="ppo_clip")
    parser.add_argument("--control-share", type=float, default=0.1, help="of the peak rates at first, in the control")
    parser.add_argument("--control-tokens", type=int, default=3072, help="padded tokens of a step, in the control")
    parser.add_argument("--also", nargs="*", default=[], help="NAME=FOLDER: other checkpoints, measured with one run")
    parser.add_argument("--each", type=int, default=4, help="episodes of a task with four runs")
    parser.add_argument("--workers", type=int, default=2, help="boxes at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="/var/tmp/envfarm-rl-repair")
    parser.add_argument("--json", default="")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parse())))
