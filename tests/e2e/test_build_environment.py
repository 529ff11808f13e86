"""Environments built in real boxes, from small trees and from a released package."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pytest
from envfarm_builders.recipes.builder import UvEnvironmentBuilder
from envfarm_builders.recipes.detect import detect
from envfarm_builders.recipes.interpreters import discover

from envfarm.core.archive import File, pack, unpack
from envfarm.core.box import BoxSpec, ExecRequest
from envfarm.core.environment import WORKDIR, Environment, InstallMode
from envfarm.sandbox.local import LocalProvider
from envfarm.store.blobs import FsspecBlobs

pytestmark = [pytest.mark.registry, pytest.mark.slow]

OLD = datetime(2021, 3, 1, tzinfo=UTC)
NEW = datetime(2024, 6, 1, tzinfo=UTC)
SETUP = """
from setuptools import setup
setup(name="thing", version="1.5", packages=["thing"], install_requires=["toolz"], extras_require={"test": ["pytest"]})
"""
PURE = {
    "setup.py": SETUP,
    "thing/__init__.py": "import toolz\n",
    "tests/test_thing.py": "def test_it(): import thing\n",
}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Boxes run as another user, who cannot enter pytest's own folders.
    folder = Path(tempfile.mkdtemp(prefix="envfarm-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def provider(home: Path) -> AsyncIterator[LocalProvider]:
    async with LocalProvider(home) as provider:
        yield provider


def archive(files: dict[str, str]) -> bytes:
    return pack({path: File(dedent(text).encode()) for path, text in files.items()})


class Farm:
    """A builder with what the tests ask of it."""

    def __init__(self, home: Path, provider: LocalProvider) -> None:
        self.blobs = FsspecBlobs(str(home / "blobs"))
        self.builder = UvEnvironmentBuilder(home, provider, self.blobs)
        self.home, self.provider = home, provider
        self.log: list[str] = []

    async def build(self, files: dict[str, str], when: datetime | None = NEW) -> Environment:
        contents = {path: dedent(text).encode() for path, text in files.items()}
        recipe = detect(contents, version="1.5", released_at=when, interpreters=self.builder.interpreters)
        return await self.builder.build(recipe, archive(files), self.log.append, repo="thing")

    async def python(self, environment: Environment, files: dict[str, str], script: str) -> str:
        sandbox = await self.provider.acquire(BoxSpec(environment=environment))
        try:
            if environment.generated:
                await sandbox.put(WORKDIR, self.blobs.get(environment.generated))
            await sandbox.put(WORKDIR, archive(files))
            result = await sandbox.exec(ExecRequest(argv=("/env/bin/python", "-c", dedent(script))))
            assert result.ok, result.stderr.decode()
            return result.stdout.decode().strip()
        finally:
            await self.provider.release(sandbox)


async def test_an_old_era_is_capped_but_its_build_backend_is_not(home: Path, provider: LocalProvider):
    farm = Farm(home, provider)
    environment = await farm.build(PURE, OLD)
    assert environment.install_mode is InstallMode.editable
    versions = dict(package.split("==") for package in environment.packages)
    assert versions["toolz"] == "0.11.1" and versions["thing"] == "1.5"
    assert "collected 1 tests, 0 errors" in farm.log
    origin = await farm.python(environment, PURE, "import thing; print(thing.__file__)")
    assert origin == f"{WORKDIR}/thing/__init__.py"


async def test_an_equal_recipe_is_built_once(home: Path, provider: LocalProvider):
    farm = Farm(home, provider)
    files = PURE | {"setup.py": SETUP + "# once\n"}
    first, second = await asyncio.gather(farm.build(files), farm.build(files))
    assert first == second
    assert sum(row.startswith("$ [venv]") for row in farm.log) == 1
    assert not list((home / "envs").glob("*.tmp-*"))


async def test_nothing_of_the_host_is_importable(home: Path, provider: LocalProvider):
    farm = Farm(home, provider)
    environment = await farm.build(PURE)
    script = """
    import importlib.metadata as m, sys, os
    print(sorted(d.metadata["Name"].lower() for d in m.distributions()))
    for place in sys.path:
        assert place.startswith("/env") or "site-packages" not in place or not os.listdir(place), place
    """
    names = eval(await farm.python(environment, PURE, script))
    assert sorted(package.split("==")[0].lower() for package in environment.packages) == names
    assert "pydantic" not in names


async def test_native_sources_are_compiled_against_the_toolchain_and_carried_over(home: Path, provider: LocalProvider):
    files = {
        "setup.py": "from setuptools import setup, Extension\n"
        "setup(name='native', version='1', packages=['native'],\n"
        "      ext_modules=[Extension('native._c', ['native/_c.c'])])\n",
        "native/__init__.py": "from ._c import answer\n",
        "native/_c.c": """
        #include <Python.h>
        static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
        static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
        static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_c", "", -1, methods};
        PyMODINIT_FUNC PyInit__c(void) { return PyModule_Create(&module); }
        """,
        "tests/test_native.py": "import native\ndef test_it(): assert native.answer() == 42\n",
    }
    farm = Farm(home, provider)
    environment = await farm.build(files)
    assert environment.generated
    names = list(unpack(farm.blobs.get(environment.generated)))
    assert any(name.startswith("native/_c.") and name.endswith(".so") for name in names)
    assert not any(name.startswith("build/") for name in names)
    assert await farm.python(environment, files, "import native; print(native.answer())") == "42"


async def test_a_missing_module_is_mended_and_recorded(home: Path, provider: LocalProvider):
    files = PURE | {
        "setup.py": SETUP + "# mended\n",
        "tests/test_more.py": "import importlib\nimportlib.import_module('yaml')\ndef test_more(): ...\n",
    }
    farm = Farm(home, provider)
    environment = await farm.build(files)
    assert any(package.startswith("pyyaml==") for package in environment.packages)
    assert "repair missing-module: added pyyaml" in environment.provenance


async def test_a_backend_without_editable_hook_is_a_recorded_weaker_install(home: Path, provider: LocalProvider):
    files = {
        "pyproject.toml": """
        [build-system]
        requires = ["setuptools"]
        build-backend = "backend"
        backend-path = ["."]
        [project]
        name = "thing"
        version = "1"
        """,
        "backend.py": "from setuptools.build_meta import build_wheel, get_requires_for_build_wheel\n",
        "thing/__init__.py": "",
        "tests/test_thing.py": "def test_it(): import thing\n",
    }
    farm = Farm(home, provider)
    environment = await farm.build(files)
    assert environment.install_mode is InstallMode.regular
    assert any(note.startswith("repair no-editable-hook: installed regularly") for note in environment.provenance)


async def test_a_tree_that_does_not_build_gets_its_own_published_wheel(home: Path, provider: LocalProvider):
    files = {
        "pyproject.toml": "[project]\nname = 'toolz'\nversion = '1.0.0'\n",
        "setup.py": "raise SystemExit('needs a library that is not here')\n",
        "toolz/__init__.py": "",
        "tests/test_thing.py": "def test_it(): import toolz\n",
    }
    farm = Farm(home, provider)
    contents = {path: text.encode() for path, text in files.items()}
    recipe = detect(contents, version="1.0.0", released_at=NEW, interpreters=farm.builder.interpreters)
    environment = await farm.builder.build(recipe, archive(files), farm.log.append)
    assert environment.install_mode is InstallMode.wheel and "toolz==1.0.0" in environment.packages
    assert any("the published wheel toolz==1.0.0 instead" in note for note in environment.provenance)


async def test_killed_in_the_middle_nothing_is_left_but_what_the_next_build_sweeps(home: Path, provider: LocalProvider):
    files = PURE | {"setup.py": SETUP + "# killed\n"}
    (home / "tree.json").write_text(json.dumps(files))
    script = f"""
    import asyncio, json, sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from pathlib import Path
    from test_build_environment import Farm, LocalProvider
    async def main():
        home = Path({str(home)!r})
        async with LocalProvider(home) as provider:
            await Farm(home, provider).build(json.loads((home / "tree.json").read_text()))
    asyncio.run(main())
    """
    env = os.environ | {
        "ENVFARM_FAILPOINTS": "environment.before_rename",
        "PYTHONPATH": ":".join(filter(None, sys.path)),
    }
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", dedent(script)], env=env, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len(list((home / "envs").glob("*.tmp-*"))) == 1
    environment = await Farm(home, provider).build(files)
    assert (home / environment.layers[1].source).is_dir()
    assert not list((home / "envs").glob("*.tmp-*"))


@pytest.mark.parametrize("minor", [each.minor for each in discover()])
async def test_every_interpreter_present_can_be_built_with(home: Path, provider: LocalProvider, minor: str):
    files = PURE | {"setup.py": SETUP.replace("version=", f"python_requires='=={minor}.*', version=")}
    farm = Farm(home, provider)
    environment = await farm.build(files)
    assert environment.toolchain == minor
    script = "import sys, ssl, sqlite3, ctypes, thing; print('%d.%d' % sys.version_info[:2])"
    assert await farm.python(environment, files, script) == minor
