"""The attack battery against the grader: no cheat passes."""

from __future__ import annotations

import asyncio

import pytest
from envfarm_verifiers.attacks import TWELVE, cheat_patches

from envfarm.core.verdict import Outcome

from .grading_fixtures import Grading, grading, world
from .grading_world import TREE, submission

__all__ = ["grading", "world"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = (
    "S20.neutered", "S21.precreate", "S22.nested", "S23.pytest_ini_plugin", "S35.import_os_exit", "S36.atexit",
    "S37.call_skip", "S38.call_streams", "S39.all_descriptors_then_exit", "S39.stolen_sender_by_frames",
    "S40.call_patch_and_restore", "S40.plugin_registered", "S41.raises", "S41.unittest", "S42.always_equal",
    "S42.equal_wrapping", "S43.expected_from_caller",
)  # fmt: skip
"""One or two of each kind; the whole battery runs under ``slow``."""
TAMPERING = ("S39.all", "S39.stolen", "S40.plugin", "S40.call_patch", "S41", "S42", "S43")


def battery(grading: Grading) -> dict[str, str]:
    return cheat_patches(grading.task, {name: text.encode() for name, text in TREE.items()})


async def judge(grading: Grading, patches: dict[str, str]) -> dict[str, tuple[Outcome, str]]:
    slots = asyncio.Semaphore(2)

    async def one(name: str, patch: str) -> tuple[str, tuple[Outcome, str]]:
        async with slots:
            verdict = await grading.grader.grade(
                grading.task, grading.world.environment, submission(grading.task, patch)
            )
        return name, (verdict.outcome, verdict.reason)

    return dict(await asyncio.gather(*(one(name, patch) for name, patch in patches.items())))


async def test_the_battery_covers_the_twelve(grading: Grading):
    names = battery(grading)
    assert {name.partition(".")[0] for name in names} >= set(TWELVE)
    assert set(QUICK) <= set(names)


async def test_no_cheat_passes(grading: Grading):
    patches = battery(grading)
    verdicts = await judge(grading, {name: patches[name] for name in QUICK})
    assert not [name for name, (outcome, _) in verdicts.items() if outcome not in (Outcome.failed, Outcome.tampered)]
    for name, (outcome, reason) in verdicts.items():
        if name.startswith(TAMPERING):
            assert outcome is Outcome.tampered, (name, reason)


@pytest.mark.slow
async def test_no_cheat_of_the_whole_battery_passes(grading: Grading):
    verdicts = await judge(grading, battery(grading))
    assert not {n: v for n, v in verdicts.items() if v[0] not in (Outcome.failed, Outcome.tampered)}
