"""Suites, patches and environments that cannot be used: one clear sentence, and no box left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from envfarm_verifiers.grade import PytestGrader
from envfarm_verifiers.runner import PytestRunner

from envfarm.core.environment import Layer, TestCommand
from envfarm.core.errors import EnvfarmError, ProviderError, Reason, SandboxError, StoreError, Tier, VerifierError
from envfarm.core.verdict import RunOutcome
from envfarm.sandbox.local import LocalProvider

from ..e2e.grading_world import GOLD, TREE, World, open_world, submission, tar

pytestmark = pytest.mark.asyncio(loop_scope="module")
COMMAND = TestCommand(timeout_sec=30)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(world: World) -> AsyncIterator[LocalProvider]:
    async with LocalProvider(world.home) as entered:
        yield entered


async def fails(
    world: World, provider: LocalProvider, kind: type[EnvfarmError], environment=None, **options
) -> EnvfarmError:
    runner = PytestRunner(provider, world.blobs)
    values = {"environment": environment or world.environment, "command": COMMAND, "archives": [tar(TREE)]} | options
    with pytest.raises(kind) as caught:
        await runner.run(**values)
    assert await provider.list("envfarm-verify") == []
    assert str(caught.value).count("\n") == 0 and str(caught.value).endswith((".", "pytest"))
    return caught.value


async def test_a_patch_that_does_not_fit(world: World, provider: LocalProvider):
    error = await fails(world, provider, VerifierError, patch=GOLD.replace("total = 0", "total = 1"))
    assert error.reason is Reason.patch_refused and error.tier is Tier.policy
    assert "does not apply" in str(error) and "src/clock" in error.detail


async def test_a_patch_that_is_none(world: World, provider: LocalProvider):
    assert (await fails(world, provider, VerifierError, patch="hello")).reason is Reason.patch_refused


async def test_an_unknown_runner(world: World, provider: LocalProvider):
    error = await fails(world, provider, VerifierError, command=TestCommand(runner="nose"))
    assert "'nose'" in str(error) and "pytest" in str(error)


async def test_an_environment_without_an_interpreter(world: World, provider: LocalProvider):
    (world.home / "bare").mkdir(exist_ok=True)
    bare = world.environment.model_copy(update={"layers": (Layer(source="bare", target="/env"),)})
    error = await fails(world, provider, EnvfarmError, environment=bare)
    assert isinstance(error, VerifierError | SandboxError) and "/env/bin/python" in str(error)


async def test_an_environment_without_pytest(world: World, provider: LocalProvider):
    target = world.home / "nopytest/bin"
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "python").exists():
        (target / "python").symlink_to("/opt/toolchain/bin/python3")
    (world.home / "nopytest/pyvenv.cfg").write_text("home = /opt/toolchain/bin\n")
    layers = (world.environment.layers[0], Layer(source="nopytest", target="/env"))
    error = await fails(
        world, provider, VerifierError, environment=world.environment.model_copy(update={"layers": layers})
    )
    assert error.phase == "start" and "No module named 'pytest'" in str(error)


async def test_an_environment_that_is_gone(world: World, provider: LocalProvider):
    gone = world.environment.model_copy(update={"layers": (Layer(source="gone", target="/env"),)})
    await fails(world, provider, ProviderError, environment=gone)


async def test_a_generated_blob_that_is_gone(world: World, provider: LocalProvider):
    lost = world.environment.model_copy(update={"generated": "sha256:" + "1" * 64})
    assert (await fails(world, provider, StoreError, environment=lost)).reason is Reason.blob_missing


async def test_an_archive_that_is_none(world: World, provider: LocalProvider):
    await fails(world, provider, EnvfarmError, archives=[b"not a tar"])


async def test_a_suite_that_asks_for_unknown_options_has_no_tests(world: World, provider: LocalProvider):
    runner = PytestRunner(provider, world.blobs)
    report = await runner.run(world.environment, TestCommand(args=("--no-such-option",)), [tar(TREE)])
    assert report.outcome is RunOutcome.no_tests and report.exit_code == 4 and "--no-such-option" in report.log_tail


@pytest.mark.parametrize(
    ("files", "outcome"),
    [
        ({"tests/test_a.py": "import time\ntime.sleep(100)\n"}, RunOutcome.timed_out),
        ({"tests/test_a.py": "import os\nos.abort()\n"}, RunOutcome.crashed),
        ({"tests/test_a.py": "def test(:\n"}, RunOutcome.no_tests),
        ({"tests/test_a.py": "\x00\x01"}, RunOutcome.no_tests),
        (
            {"tests/conftest.py": "import nothing_like_this\n", "tests/test_a.py": "def test(): pass\n"},
            RunOutcome.no_tests,
        ),
        ({"pytest.ini": "[pytest\n"}, RunOutcome.no_tests),
        ({}, RunOutcome.no_tests),
    ],
)
async def test_broken_suites_are_reports(world: World, provider: LocalProvider, files: dict, outcome: RunOutcome):
    runner = PytestRunner(provider, world.blobs)
    limit = 2 if outcome is RunOutcome.timed_out else 30
    report = await runner.run(world.environment, TestCommand(timeout_sec=limit), [tar({"a.txt": "", **files})])
    assert report.outcome is outcome, report
    if "tests/conftest.py" in files:
        assert report.collection_errors == {
            "tests/conftest.py": "ModuleNotFoundError: No module named 'nothing_like_this'"
        }
    assert await provider.list("envfarm-verify") == []


async def test_a_flood_of_output_does_not_drown_the_report(world: World, provider: LocalProvider):
    flood = "import os\ndef test_a():\n    for _ in range(3000):\n        os.write(1, b'PASSED\\r\\x1b[2K' * 5000)\n"
    runner = PytestRunner(provider, world.blobs)
    report = await runner.run(world.environment, TestCommand(args=("-s",)), [tar({"tests/test_a.py": flood})])
    assert report.outcome is RunOutcome.finished and len(report.statuses) == 1


async def test_a_submission_of_another_task(world: World, provider: LocalProvider):
    grader = PytestGrader(provider, world.blobs, lambda environment: COMMAND)
    task = world.task(environment_digest=world.environment.digest)
    other = submission(task.model_copy(update={"id": "other"}), "")
    with pytest.raises(VerifierError, match="another version"):
        await grader.grade(task, world.environment, other)
    with pytest.raises(VerifierError, match="another version"):
        await grader.grade(world.task(), world.environment, submission(world.task(), ""))
