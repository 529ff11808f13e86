"""A small real project, an environment for it without any network, and tasks on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path

from envfarm.core.archive import File, pack
from envfarm.core.environment import Environment, InstallMode, Layer
from envfarm.core.rollout import Submission
from envfarm.core.source import IssueKind
from envfarm.core.task import Statement, Task, TaskKind
from envfarm.store.blobs import FsspecBlobs

CLOCK = datetime(2026, 1, 1, tzinfo=UTC)

BROKEN = '''\
"""Durations as people write them."""

UNITS = {"s": 1, "m": 60, "h": 3600}


class Duration:
    def __init__(self, seconds):
        self.seconds = seconds

    def __eq__(self, other):
        return isinstance(other, Duration) and self.seconds == other.seconds

    def __repr__(self):
        return f"Duration({self.seconds})"


def parse(text):
    """``1h 30m`` -> Duration(5400)."""
    total = 0
    for part in text.split():
        total = int(part[:-1]) * UNITS[part[-1]]
    return Duration(total)


def words(text):
    return text.split()
'''
FIXED = BROKEN.replace("total = int(part", "total += int(part").replace(
    "    total = 0\n    for",
    '    if not text.strip():\n        raise ValueError("empty duration")\n    total = 0\n    for',
)
OLD_TESTS = """\
import pytest

from clock import Duration, parse, words


def test_single():
    assert parse("5s") == Duration(5)


def test_unknown_unit():
    with pytest.raises(KeyError):
        parse("5y")


@pytest.mark.parametrize("text,count", [("a b", 2), ("a::b [c]", 2), ("ü", 1)])
def test_words(text, count):
    assert len(words(text)) == count
"""
NEW_TESTS = (
    OLD_TESTS
    + """

@pytest.mark.parametrize("text,seconds", [("1m 1s", 61), ("2h 3m", 7380)])
def test_sum(text, seconds):
    assert parse(text).seconds == seconds


def test_sum_as_duration():
    assert parse("1h 30m") == Duration(5400)


def test_empty():
    with pytest.raises(ValueError, match="empty duration"):
        parse(" ")
"""
)
UNITTESTS = """\
import unittest

from clock import parse


class TestParse(unittest.TestCase):
    def setUp(self):
        self.text = "2m 5s"

    def test_parts(self):
        self.assertEqual(parse(self.text).seconds, 125)

    def test_one(self):
        self.assertTrue(parse("1s").seconds)
"""
OTHER_TESTS = """\
from clock import words


def test_none():
    assert words("") == []
"""
CONFIG = "[pytest]\ntestpaths = tests\naddopts = -x -q\n"


def diff(old: dict[str, str], new: dict[str, str]) -> str:
    """git's own diff between two sets of files."""
    with tempfile.TemporaryDirectory() as folder:
        for side, files in (("a", old), ("b", new)):
            for name, text in files.items():
                path = Path(folder) / side / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text.encode())
            (Path(folder) / side).mkdir(exist_ok=True)
        command = ["git", "-c", "core.quotepath=on", "diff", "--no-index", "--no-prefix", "a", "b"]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).stdout.decode()


def tar(files: dict[str, str]) -> bytes:
    """A tree as an archive."""
    return pack({name: File(text.encode()) for name, text in files.items()})


TREE = {
    "pytest.ini": CONFIG,
    "src/clock/__init__.py": BROKEN,
    "tests/conftest.py": "import clock\n",
    "tests/test_clock.py": OLD_TESTS,
    "tests/test_other.py": OTHER_TESTS,
}
TESTS = {
    "pytest.ini": CONFIG,
    "tests/conftest.py": "import clock\n",
    "tests/test_clock.py": NEW_TESTS,
    "tests/test_parse.py": UNITTESTS,
}
GOLD = diff({"src/clock/__init__.py": BROKEN}, {"src/clock/__init__.py": FIXED})


@dataclass
class World:
    """Where a test's boxes, blobs and environment live."""

    home: Path
    blobs: FsspecBlobs
    environment: Environment

    def task(
        self,
        tree: dict[str, str] | None = None,
        tests: dict[str, str] | None = None,
        gold: str = GOLD,
        **fields: object,
    ) -> Task:
        """A task on the toy project."""
        values: dict[str, object] = {
            "id": "toy__clock-1",
            "kind": TaskKind.commit,
            "repo": "git:toy",
            "repo_name": "clock",
            "base_commit": "0" * 40,
            "created_at": CLOCK,
            "statement": Statement(text="Durations of several parts are not added up.", source=IssueKind.commit),
            "tree": self.blobs.put(tar(TREE if tree is None else tree)),
            "tests": self.blobs.put(tar(TESTS if tests is None else tests)),
            "gold_patch": self.blobs.put(gold.encode()),
            "source_paths": ("src/",),
            "test_files": ("tests/test_clock.py", "tests/test_parse.py"),
        }
        return Task.model_validate(values | fields)


def submission(task: Task, patch: str) -> Submission:
    """What a rollout would hand in."""
    return Submission(task_id=task.id, task_digest=task.digest, patch=patch)


@contextmanager
def open_world() -> Iterator[World]:
    """A home that boxes can reach, with a toolchain copied from this interpreter and pytest from its packages."""
    home = Path(tempfile.mkdtemp(prefix="envfarm-grading-", dir="/var/tmp"))
    try:
        home.chmod(0o755)
        build_environment(home)
        layers = (Layer(source="toolchain", target="/opt/toolchain"), Layer(source="env", target="/env"))
        environment = Environment(
            recipe_digest="sha256:" + "0" * 64,
            toolchain="3",
            layers=layers,
            install_mode=InstallMode.none,
            built_at=CLOCK,
        )
        yield World(home, FsspecBlobs(str(home / "blobs")), environment)
    finally:
        shutil.rmtree(home)


def build_environment(home: Path) -> None:
    """A toolchain and a virtual environment with pytest, below ``home``."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    left_out = shutil.ignore_patterns("test", "tests", "site-packages", "idlelib", "*.a", "config-*")
    shutil.copytree(base / "lib", home / "toolchain/lib", ignore=left_out, symlinks=True)
    (home / "toolchain/bin").mkdir()
    shutil.copy2(Path(sys.executable).resolve(), home / "toolchain/bin/python3")
    packages = home / f"env/lib/{version}/site-packages"
    packages.mkdir(parents=True)
    (home / "env/bin").mkdir()
    (home / "env/bin/python").symlink_to("/opt/toolchain/bin/python3")
    (home / "env/pyvenv.cfg").write_text("home = /opt/toolchain/bin\ninclude-system-site-packages = false\n")
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        for file in distribution(name).files or ():
            source = Path(str(file.locate()))
            if ".." in file.parts or not source.is_file():
                continue
            target = packages / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
