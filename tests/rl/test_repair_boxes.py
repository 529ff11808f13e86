"""Repair in real boxes with the real grader: pages of published tasks, what edits do, and a step of training on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from envfarm_rl.episodes import outcome
from envfarm_rl.policy import MiMo, save_policy
from envfarm_rl.repair.problem import LINES
from envfarm_rl.repair.prompt import page
from envfarm_rl.repair.protocol import make
from envfarm_rl.repair.random_policy import RandomValid
from envfarm_rl.repair.recipe import read_recipe
from envfarm_rl.repair.texts import FORMS
from envfarm_rl.samples import Outcome
from envfarm_rl.text.tokenizer import train_tokenizer
from envfarm_rl.trainer.config import parse_train_config
from envfarm_rl.trainer.run import Run

from envfarm.core.config import Config
from envfarm.core.errors import ConfigError, EngineError, Reason, Tier
from envfarm.core.rollout import Role, StopReason, Turn
from envfarm.core.source import IssueKind
from envfarm.core.task import Mutation, Statement, Task, TaskKind
from envfarm.store import Store
from envfarm.wiring.app import open_app, open_store
from envfarm.wiring.repair import boxes
from envfarm.wiring.repair.boxes import BoxWorld
from envfarm.wiring.repair.tasks import RepairTask, repair_tasks
from envfarm.wiring.repair.training import FarmRollouts, source

from ..e2e.grading_world import FIXED, NEW_TESTS, OLD_TESTS, World, diff, open_world

MUTATED = FIXED.replace("if not text.strip()", "if text.strip()")
SHOWN = "tests/test_clock.py::test_single"
FAILING = (
    SHOWN,
    "tests/test_clock.py::test_empty",
    "tests/test_clock.py::test_sum[1m 1s-61]",
    "tests/test_clock.py::test_sum[2h 3m-7380]",
    "tests/test_clock.py::test_sum_as_duration",
    "tests/test_clock.py::test_unknown_unit",
)


@dataclass
class Built:
    """A home with one published synth task of the run ``toy``."""

    world: World
    config: Config
    task: Task


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    with open_world() as world:
        line = MUTATED.splitlines().index("    if text.strip():") + 1
        task = world.task(
            tree={"clock.py": MUTATED, "tests/test_clock.py": OLD_TESTS},
            tests={"tests/test_clock.py": NEW_TESTS},
            gold=diff({"clock.py": MUTATED}, {"clock.py": FIXED}),
            id="synth__clock-1",
            kind=TaskKind.synth,
            statement=Statement(
                text=f"Wrong.\n\n`{SHOWN}` ends with\n\n```\nValueError: empty duration\n```\n",
                source=IssueKind.none,
                shown_tests=(SHOWN,),
            ),
            source_paths=("clock.py",),
            test_files=("tests/test_clock.py",),
            fail_to_pass=FAILING,
            pass_to_pass=("tests/test_clock.py::test_words[a b-2]",),
            environment_digest=world.environment.digest,
            mutation=Mutation(
                operator="negation", path="clock.py", line=line, function="parse", original="not text", mutated="text"
            ),
        )
        config = Config(home=str(world.home))
        store, _ = open_store(config)
        publish(store, world, task)
        store.close()
        yield Built(world, config, task)


def publish(store: Store, world: World, task: Task) -> None:
    with store.begin() as tx:
        tx.put_run("toy", "build", {})
        tx.put_environment("toy", world.environment)
        tx.put_task("toy", task, "valid")
        tx.publish("toy", task.id)


def only(found: list[RepairTask]) -> RepairTask:
    (task,) = found
    return task


async def test_every_edit_is_tried_once_and_only_the_right_one_passes(built: Built, tmp_path: Path) -> None:
    record = tmp_path / "tried.jsonl"
    async with open_app(built.config) as app:
        found = only(repair_tasks(app.store, app.blobs, "toy"))
        assert found.problem.failure == "ValueError: empty duration"
        assert found.problem.shown_test == SHOWN
        assert "    if text.strip(): #3" in page(found.problem)
        world = BoxWorld(app, [found], record)
        tried = await world.all_tried(found.task.id)
        right = [index for index, each in enumerate(tried) if each.passed]
        assert [found.problem.edits[index].new for index in right] == ["not text"]
        assert " passed" in tried[right[0]].line and world.graded < world.ran == len(tried)
        assert await world.tried(found.task.id, right[0]) == tried[right[0]]
        assert world.ran == len(tried), "what is known is not run again"
        again = BoxWorld(app, [found], record)
        assert await again.all_tried(found.task.id) == tried and again.ran == 0, "nor by the next process"


async def test_an_edit_after_which_the_shown_test_does_not_end_has_not_passed(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "TEST_SEC", 0.3)  # less than pytest takes to start
    async with open_app(built.config) as app:
        found = only(repair_tasks(app.store, app.blobs, "toy"))
        world = BoxWorld(app, [found])
        tried = await world.tried(found.task.id, 0)
        assert "ended after" in tried.line and not tried.passed and (world.ran, world.graded) == (1, 0)


async def test_episodes_in_boxes_end_as_the_record_says(built: Built) -> None:
    async with open_app(built.config) as app:
        found = only(repair_tasks(app.store, app.blobs, "toy"))
        rollouts = FarmRollouts(app, {found.task.id: found})
        ended = {}
        for seed in range(12):
            policy = RandomValid(found.problem, runs=4, seed=seed)
            rollout = await rollouts.rollout(found.task.id, policy, seed=seed)
            assert rollout.stop is StopReason.finished and rollout.turns[0].text == page(found.problem)
            said = "\n".join(turn.text for turn in rollout.turns if turn.role is Role.tool)
            ended[outcome(rollout)[0]] = " passed" in said
            if len(ended) == 2:
                break
        assert ended == {Outcome.passed: True, Outcome.failed: False}


class OutOfContext:
    """Makes the right edit, and has no room for another word."""

    name = "long"

    def __init__(self, found: RepairTask) -> None:
        self._call = make(found.problem, next(edit for edit in found.problem.edits if edit.new == "not text"))

    async def act(self, turns: list[Turn]) -> Turn:
        if len(turns) > 1:
            raise EngineError("Full.", reason=Reason.context_overflow, phase="act", tier=Tier.policy)
        return Turn(role=Role.assistant, tool_calls=(self._call,))


async def test_what_was_done_before_the_context_was_full_is_handed_in(built: Built) -> None:
    async with open_app(built.config) as app:
        found = only(repair_tasks(app.store, app.blobs, "toy"))
        rollout = await FarmRollouts(app, {found.task.id: found}).rollout(found.task.id, OutOfContext(found))
    assert rollout.stop is StopReason.context_limit and outcome(rollout)[0] is Outcome.passed


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_step_of_training_on_real_verdicts(built: Built, tmp_path: Path, recorded: bool) -> None:
    tokenizer = train_tokenizer([MUTATED, *FORMS * 10], vocabulary=400, lines=LINES)
    shape = {**read_recipe().shape, "hidden_size": 32, "intermediate_size": 64}
    policy = MiMo(read_recipe().model_copy(update={"shape": shape}).config(tokenizer.size))
    save_policy(policy.initialise(torch.Generator().manual_seed(1)), tmp_path / "policy")
    tokenizer.save(tmp_path / "policy" / "tokenizer.json")
    config = parse_train_config(
        {
            "policy": {"path": str(tmp_path / "policy")},
            "engine": {"max_context": 2048},
            "rollout": {"groups": 1, "group_size": 4},
            "run": {"steps": 1},
            "source": {
                "path": "envfarm.wiring.repair.training:source",
                "options": {
                    "run": "toy", "home": str(built.world.home), "runs": 1, "concurrency": 4,
                    "tokenizer": str(tmp_path / "policy" / "tokenizer.json"),
                    "record": str(tmp_path / "tried.jsonl") if recorded else "",
                },
            },
        }
    )  # fmt: skip
    await Run(tmp_path / "run", config).run()
    (row,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert row["launched"] == row["scored"] == 4 and row["masked"] == {} and row["unscorable"] == 0
    assert row["accepted_length"] > 1.0
    if not row["skipped"]:
        assert row["max_logprob_gap"] < 1e-4


def test_a_run_without_tasks_is_told(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no published synth task"):
        source(engine=None, sampling=None, run="nothing", tokenizer="", home=str(built.world.home))  # type: ignore[arg-type]
