"""Drafts: what goes into the box, what comes trusted, and what is the answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

from envfarm_builders.draft import draft, fixed_tree
from envfarm_builders.issues import default_sources
from envfarm_builders.mine import RepositoryMiner
from envfarm_builders.repos.git import GitRepository

from envfarm.core.archive import unpack
from envfarm.core.source import Candidate, IssueKind
from envfarm.core.task import Task, TaskKind

from ..repositories import GitHistory, MemoryBlobs

_BASE: dict[str, str | bytes | None] = {
    "src/pkg/__init__.py": "X = 1\n",
    "src/pkg/gone.py": "Y = 1\n",
    "src/pkg/icon.png": b"\x89PNG\0\1",
    "src/pkg/tests/test_inner.py": "def test_inner(): pass\n",
    "tests/test_old.py": "def test_old(): pass\n",
    "tests/test_x.py": "def test_x(): pass\n",
    "tests/data/kept.txt": "kept",
    "conftest.py": "",
    "pyproject.toml": "[project]\nname = 'pkg'\n",
    "CHANGES.md": "# Changes\n",
    "docs/manual.rst": ">>> 1\n1\n",
}
_FIX: dict[str, str | bytes | None] = {
    "src/pkg/__init__.py": "X = 2\n",
    "src/pkg/gone.py": None,
    "src/pkg/icon.png": b"\x89PNG\0\2",
    "src/pkg/tests/test_inner.py": "def test_inner(): assert True\n",
    "src/other/__init__.py": "Z = 1\n",
    "tests/test_old.py": None,
    "tests/test_x.py": "import pkg\n\n\ndef test_x(): assert pkg.X == 2\n",
    "tests/data/new.txt": "new",
    "pyproject.toml": "[project]\nname = 'pkg'\n[tool.pytest.ini_options]\naddopts = '-q'\n",
    "CHANGES.md": "# Changes\n\n- `X` is two, as the manual has always said (#12).\n",
    "setup.py": "",
    "docs/manual.rst": ">>> 2\n2\n",
}


def _draft(tmp_path: Path) -> tuple[GitRepository, Candidate, Task, MemoryBlobs]:
    history = GitHistory(tmp_path / "project")
    history.commit("Start", _BASE, tag="v1.0")
    history.commit("Make it two (#13)", _FIX)
    repository = GitRepository(history.path)
    (candidate,) = RepositoryMiner().mine(repository, default_sources(), None)
    blobs = MemoryBlobs()
    return repository, candidate, draft(repository, candidate, blobs), blobs


def test_the_parts_of_a_draft(tmp_path: Path) -> None:
    repository, candidate, task, blobs = _draft(tmp_path)
    tree, tests = unpack(blobs[task.tree]), unpack(blobs[task.tests])
    assert {name: file.data for name, file in tree.items()} == {
        name: content.encode() if isinstance(content, str) else content for name, content in _BASE.items()
    }
    assert set(tests) == {
        "src/pkg/tests/test_inner.py", "tests/test_x.py", "tests/data/new.txt", "conftest.py", "pyproject.toml",
        "src/pkg/icon.png", "docs/manual.rst", "CHANGES.md",
    }  # fmt: skip
    # no text patch can hold it, so it comes trusted and the gold patch stays one that a subject could hand in
    assert tests["src/pkg/icon.png"].data == _FIX["src/pkg/icon.png"]
    assert b"GIT binary patch" not in blobs[task.gold_patch]
    assert b"assert pkg.X == 2" in tests["tests/test_x.py"].data
    assert task.removed_tests == ("tests/test_old.py",)
    assert task.test_files == ("src/pkg/tests/test_inner.py", "tests/test_x.py")
    assert task.source_paths == ("src/other/", "src/pkg/")
    assert (task.kind, task.version, task.environment_digest) == (TaskKind.commit, "1.0", "")
    assert task.statement.text == "- `X` is two, as the manual has always said."
    assert (task.statement.source, task.statement.reference) == (IssueKind.changelog, "CHANGES.md")
    assert fixed_tree(repository, task) == fixed_tree(repository, candidate)
    repository.close()


def test_the_gold_patch_turns_the_product_and_nothing_else_into_the_fixed_one(tmp_path: Path) -> None:
    repository, _, task, blobs = _draft(tmp_path)
    work = tmp_path / "work"
    for name, file in unpack(blobs[task.tree]).items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(file.data)
    subprocess.run(["git", "apply", "-"], input=blobs[task.gold_patch], cwd=work, check=True, env={"GIT_DIR": "/none"})
    fixed = unpack(fixed_tree(repository, task))
    for path in (path for path in work.rglob("*") if path.is_file()):
        name = str(path.relative_to(work))
        product = name.startswith(task.source_paths) and "/tests/" not in name and not name.endswith(".png")
        expected = fixed[name].data if product else unpack(blobs[task.tree])[name].data
        assert path.read_bytes() == expected, name
    assert not (work / "src/pkg/gone.py").exists() and (work / "src/other/__init__.py").exists()
    assert b"test_" not in blobs[task.gold_patch] and b"setup.py" not in blobs[task.gold_patch]
    assert b"test_x" in blobs[task.test_patch] and b"src/pkg/__init__" not in blobs[task.test_patch]
    assert b"manual" not in blobs[task.test_patch] + blobs[task.gold_patch]
    repository.close()


def test_drafting_again_gives_the_same_task(tmp_path: Path) -> None:
    repository, candidate, task, _ = _draft(tmp_path)
    again = draft(repository, candidate, MemoryBlobs())
    assert again == task and again.digest == task.digest
    repository.close()
