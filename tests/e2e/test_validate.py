"""Three-state validation in real boxes."""

from __future__ import annotations

import time

import pytest
from envfarm_verifiers.validate import SharedState, finalize, validate

from envfarm.core.errors import VerifierError
from envfarm.core.verdict import InvalidReason, Transition

from .grading_fixtures import COMMAND, FAIL_TO_PASS, PASS_TO_PASS, Grading, grading, passing, world
from .grading_world import BROKEN, FIXED, GOLD, NEW_TESTS, TESTS, TREE, UNITTESTS, diff

__all__ = ["grading", "world"]
pytestmark = pytest.mark.asyncio(loop_scope="module")
SOURCE = "src/clock/__init__.py"


async def check(grading: Grading, task, **options):
    return await validate(task, grading.world.environment, COMMAND, grading.runner, grading.world.blobs, **options)


async def test_a_good_task(grading: Grading):
    task = grading.world.task()
    validation = await check(grading, task)
    assert validation.valid and validation.reason is None and not validation.flaky
    assert validation.tests(Transition.f2p) == FAIL_TO_PASS and validation.tests(Transition.p2p) == PASS_TO_PASS
    assert [len(state) for state in (validation.base, validation.before, validation.after)] == [2, 2, 2]
    assert passing(validation.after[0]) == {*FAIL_TO_PASS, *PASS_TO_PASS}
    done = finalize(task, grading.world.environment, validation)
    assert done.fail_to_pass == FAIL_TO_PASS and done.environment_digest == grading.world.environment.digest
    assert done.digest != task.digest
    with pytest.raises(VerifierError, match="not its own"):
        finalize(task.model_copy(update={"id": "other"}), grading.world.environment, validation)


def with_files(**files: str) -> dict[str, str]:
    return TESTS | {f"tests/{name}.py": text for name, text in files.items()}


NEW_NAME = "from clock import parse, pretty\n\ndef test_pretty(): assert pretty(parse('5s')) == '5s'\n"
LUCKY = """\
import time

import pytest

from clock import parse


@pytest.mark.parametrize("n", range({}))
def test_luck(n):
    assert time.time_ns() // 1000 % 2 or parse("1s 1s").seconds == 7
"""

CASES = {
    "no_f2p": (
        dict(tests=with_files(test_clock="from clock import words\ndef test_w(): assert words('a')\n", test_parse="")),
        InvalidReason.no_f2p,
    ),
    "only_error_to_pass": (
        dict(
            tests=with_files(test_clock=NEW_NAME, test_parse=""),
            gold=diff({SOURCE: BROKEN}, {SOURCE: BROKEN + "\n\ndef pretty(d):\n    return f'{d.seconds}s'\n"}),
        ),
        InvalidReason.only_error_to_pass,
    ),
    "gold_fails": (dict(gold=diff({SOURCE: BROKEN}, {SOURCE: BROKEN + "\nX = 1\n"})), InvalidReason.gold_fails),
    "breaks_tests": (
        dict(gold=diff({SOURCE: BROKEN}, {SOURCE: FIXED.replace("return text.split()", "return [text]")})),
        InvalidReason.breaks_tests,
    ),
    "patch_does_not_apply": (dict(gold=GOLD.replace("total = 0", "total = 9")), InvalidReason.patch_does_not_apply),
    "no_tests_collected": (dict(tests=with_files(test_clock="", test_parse="")), InvalidReason.no_tests_collected),
    "suite_crash": (
        dict(tests=with_files(test_clock=NEW_TESTS + "\nimport os\nos._exit(0)\n")),
        InvalidReason.suite_crash,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_unfit_tasks_have_their_reason(grading: Grading, case: str):
    fields, reason = CASES[case]
    validation = await check(grading, grading.world.task(**fields))
    assert (validation.valid, validation.reason) == (False, reason), validation.detail
    assert validation.detail and validation.wall_sec > 0
    with pytest.raises(VerifierError, match="not valid"):
        finalize(grading.world.task(**fields), grading.world.environment, validation)


async def test_too_few_and_too_slow(grading: Grading):
    assert (await check(grading, grading.world.task(), min_f2p=6)).reason is InvalidReason.few_f2p
    slow = grading.world.task(tests=with_files(test_parse=UNITTESTS + "\nimport time\ntime.sleep(600)\n"))
    quick = COMMAND.model_copy(update={"timeout_sec": 2})
    validation = await validate(slow, grading.world.environment, quick, grading.runner, grading.world.blobs)
    assert validation.reason is InvalidReason.suite_timeout
    with pytest.raises(VerifierError, match="at least two"):
        await check(grading, slow, repeats=1)


async def test_a_test_that_differs_between_runs_is_listed_and_left_out(grading: Grading):
    validation = await check(grading, grading.world.task(tests=with_files(test_lucky=LUCKY.format(3))), repeats=4)
    assert validation.valid, validation.detail
    assert validation.flaky and all("test_luck" in name for name in validation.flaky)
    assert not set(validation.flaky) & set(validation.transitions)


async def test_many_such_tests_make_the_task_unfit(grading: Grading):
    validation = await check(grading, grading.world.task(tests=with_files(test_lucky=LUCKY.format(12))), repeats=3)
    assert validation.reason is InvalidReason.flaky


async def test_tasks_that_end_in_the_same_tree_share_its_runs(grading: Grading):
    shared = SharedState()
    first = await check(grading, grading.world.task(), after=shared)
    second = await check(grading, grading.world.task(), after=shared, gate=False)
    assert first.valid and second.valid and first.transitions == second.transitions
    assert second.after == first.after and second.before != first.before
    # what was run for another is not counted again
    assert second.cpu_sec == pytest.approx(sum(run.cpu_sec for run in (*second.base, *second.before)))


async def test_a_shared_run_that_raises_is_tried_again(grading: Grading):
    shared = SharedState()
    stranger = grading.world.task(gold=grading.world.task().statement.text)
    refused = await check(grading, stranger, after=shared, gate=False)
    assert refused.reason is InvalidReason.patch_does_not_apply
    assert (await check(grading, grading.world.task(), after=shared)).valid


async def test_old_code_that_hangs_in_a_new_test_is_not_waited_for(grading: Grading, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("envfarm_verifiers.validate.MIN_PATIENCE_SEC", 4.0)
    monkeypatch.setattr("envfarm_verifiers.validate.PATIENCE", 1.0)
    endless = "from clock import parse\n\ndef test_e():\n    while parse('1s 1s').seconds != 2: pass\n"
    started = time.monotonic()
    validation = await check(grading, grading.world.task(tests=with_files(test_endless=endless)))
    assert validation.reason is InvalidReason.suite_timeout and "'base + tests'" in validation.detail
    assert time.monotonic() - started < COMMAND.timeout_sec


async def test_a_synth_task_whose_tests_are_hidden_from_the_tree(grading: Grading):
    tree = {name: text for name, text in TREE.items() if name != "tests/test_clock.py"}
    validation = await check(
        grading,
        grading.world.task(tree=tree, tests={"tests/test_clock.py": NEW_TESTS}, test_files=("tests/test_clock.py",)),
    )
    assert validation.valid and set(validation.tests(Transition.f2p)) == {
        name for name in FAIL_TO_PASS if "clock" in name
    }
    assert not any("test_clock" in name for name in validation.base[0].statuses)
