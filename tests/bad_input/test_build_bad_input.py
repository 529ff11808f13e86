"""Trees that cannot be built: one clear sentence, a stable reason, nothing left behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envfarm_builders.recipes.builder import UvEnvironmentBuilder
from envfarm_builders.recipes.detect import detect

from envfarm.core.archive import File, pack
from envfarm.core.config import BuildConfig
from envfarm.core.environment import Recipe
from envfarm.core.errors import BuilderError, EnvfarmError, Reason
from envfarm.sandbox.local import LocalProvider
from envfarm.store.blobs import FsspecBlobs

NEW = datetime(2024, 6, 1, tzinfo=UTC)
TESTS = {"tests/test_thing.py": b"def test_it(): ...\n"}
METADATA = b"[project]\nname = 'thing'\nversion = '1'\ndependencies = [%s]\n"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="envfarm-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def builder(home: Path) -> AsyncIterator[UvEnvironmentBuilder]:
    async with LocalProvider(home) as provider:
        config = BuildConfig(install_timeout_sec=60)
        yield UvEnvironmentBuilder(home, provider, FsspecBlobs(str(home / "blobs")), config)
        assert await provider.list() == []


def plan(builder: UvEnvironmentBuilder, files: dict[str, bytes]) -> Recipe:
    return detect(files, version="1", released_at=NEW, interpreters=builder.interpreters)


async def fail(builder: UvEnvironmentBuilder, home: Path, files: dict[str, bytes], recipe: Recipe | None = None):
    tree = pack({path: File(data) for path, data in files.items()})
    with pytest.raises(BuilderError) as caught:
        await builder.build(recipe or plan(builder, files), tree, lambda line: None, repo="thing")
    assert [path for path in (home / "envs").iterdir() if not path.name.endswith(".lock")] == []
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return caught.value


async def test_a_toolchain_that_is_not_here(builder: UvEnvironmentBuilder, home: Path):
    (home / "envs").mkdir(exist_ok=True)
    recipe = plan(builder, TESTS).model_copy(update={"toolchain": "3.99"})
    error = await fail(builder, home, TESTS, recipe)
    assert error.reason is Reason.no_toolchain and "3.99" in str(error)


async def test_a_tree_that_is_no_tar(builder: UvEnvironmentBuilder, home: Path):
    with pytest.raises(EnvfarmError) as caught:
        await builder.build(plan(builder, TESTS), b"no tar at all", lambda line: None)
    assert caught.value.reason is Reason.archive_refused
    assert not list((home / "envs").glob("*.tmp-*"))


def test_a_python_that_nothing_satisfies(tmp_path: Path):
    files = {"pyproject.toml": b"[project]\nname='x'\nversion='1'\nrequires-python='>=3.99'\n"}
    with pytest.raises(BuilderError) as caught:
        detect(files, version="1", released_at=NEW, interpreters=())
    assert caught.value.reason is Reason.no_toolchain and "present: none" in str(caught.value)


@pytest.mark.registry
@pytest.mark.slow
async def test_a_setup_script_that_raises(builder: UvEnvironmentBuilder, home: Path):
    error = await fail(builder, home, {"setup.py": b"raise SystemExit('this cannot be built')", **TESTS})
    assert error.reason is Reason.install_failed and "project" in str(error)
    assert "this cannot be built" in error.detail


@pytest.mark.registry
@pytest.mark.slow
async def test_a_dependency_that_does_not_exist(builder: UvEnvironmentBuilder, home: Path):
    files = {"pyproject.toml": METADATA % b"'packaging>=9999'", "thing.py": b"", **TESTS}
    error = await fail(builder, home, files)
    assert error.reason is Reason.resolve_failed and "packaging" in error.detail


@pytest.mark.registry
@pytest.mark.slow
async def test_an_installation_that_hangs(builder: UvEnvironmentBuilder, home: Path):
    builder._config = BuildConfig(install_timeout_sec=8)
    error = await fail(builder, home, {"setup.py": b"import time; time.sleep(600)", **TESTS})
    assert error.reason is Reason.install_timeout and "8 s" in str(error)


@pytest.mark.registry
@pytest.mark.slow
async def test_tests_that_cannot_be_imported(builder: UvEnvironmentBuilder, home: Path):
    files = {
        "pyproject.toml": METADATA % b"",
        "thing.py": b"",
        "tests/test_thing.py": b"import no_such_module_here\ndef test_it(): ...",
    }
    error = await fail(builder, home, files)
    assert error.reason is Reason.collect_failed and "no_such_module_here" in error.detail
