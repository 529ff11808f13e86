"""What every ``Repository`` must do. An implementation's test file imports this module's tests and gives a fixture
``repository`` over the history that :data:`STATES` describes, oldest first."""

from __future__ import annotations

import subprocess
from pathlib import Path

from envfarm.core.archive import unpack
from envfarm.core.ports import Repository

STATES: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "1.0",
        {
            "pkg/__init__.py": "def one():\n    return 1\n",
            "pkg/old.py": "".join(f"X{number} = {number}\n" for number in range(20)),
            "tests/test_pkg.py": "from pkg import one\n\n\ndef test_one():\n    assert one() == 1\n",
            "data/blob.bin": "\x00\x01\x02binary",
            "CHANGES.md": "# Changes\n\n## 1.0\n\n- First release of the package.\n",
        },
    ),
    (
        "1.1",
        {
            "pkg/__init__.py": "def one():\n    return 2 - 1\n\n\ndef two():\n    return 2\n",
            "pkg/new.py": "".join(f"X{number} = {number}\n" for number in range(20)),
            "tests/test_pkg.py": "import pkg\n\n\ndef test_two():\n    assert pkg.two() == 2\n",
            "data/blob.bin": "\x00\x01\x02other",
            "CHANGES.md": "# Changes\n\n## 1.1\n\n- Add `two`, which gives the number two (#12).\n"
            "\n## 1.0\n\n- First.\n",
        },
    ),
    ("1.2", {"pkg/__init__.py": "def one():\n    return 1\n", "tests/test_pkg.py": "", "unicode-ü.txt": "ü\n"}),
)


def test_history_is_newest_first_and_linked(repository: Repository) -> None:
    commits = list(repository.commits())
    assert [commit.version for commit in commits] == ["1.2", "1.1", "1.0"]
    assert [commit.parent for commit in commits] == [commits[1].id, commits[2].id, None]
    assert all(commit.authored_at.tzinfo is not None and commit.message for commit in commits)


def test_history_stops_at_the_limit(repository: Repository) -> None:
    assert list(repository.commits(2)) == list(repository.commits())[:2]
    assert list(repository.commits(0)) == []


def test_name_and_ref_are_stable(repository: Repository) -> None:
    assert repository.name == "pkg"
    assert repository.ref.partition(":")[0] in {"git", "pypi"} and repository.ref.partition(":")[2]


def test_changes_tell_status_counts_and_renames(repository: Repository) -> None:
    newest, middle, oldest = repository.commits()
    changes = {change.path: change for change in repository.changes(oldest.id, middle.id)}
    assert changes["pkg/__init__.py"].status == "M"
    assert (changes["pkg/__init__.py"].added, changes["pkg/__init__.py"].deleted) == (5, 1)
    assert (changes["pkg/new.py"].status, changes["pkg/new.py"].old_path) == ("R", "pkg/old.py")
    assert changes["data/blob.bin"].binary
    last = {change.path: change.status for change in repository.changes(middle.id, newest.id)}
    assert last["pkg/new.py"] == "D" and last["unicode-ü.txt"] == "A"


def test_tree_is_the_state_and_deterministic(repository: Repository) -> None:
    for commit, (_, files) in zip(repository.commits(), reversed(STATES), strict=True):
        tree = repository.tree(commit.id)
        assert tree == repository.tree(commit.id)
        assert {name: file.data.decode() for name, file in unpack(tree).items()} == files


def test_read_gives_bytes_or_none(repository: Repository) -> None:
    newest = next(iter(repository.commits()))
    assert repository.read(newest.id, "unicode-ü.txt") == "ü\n".encode()
    assert repository.read(newest.id, "pkg/new.py") is None
    assert repository.read(newest.id, "pkg") is None
    assert repository.read(newest.id, "two\nlines") is None


def test_diff_is_limited_to_paths(repository: Repository) -> None:
    _, middle, oldest = repository.commits()
    diff = repository.diff(oldest.id, middle.id, ["pkg/__init__.py"])
    assert "+def two():" in diff and "test_two" not in diff
    assert repository.diff(oldest.id, middle.id, []) == ""


def test_diff_applies_to_the_tree_and_gives_the_other(repository: Repository, tmp_path: Path) -> None:
    newest, middle, _ = repository.commits()
    paths = [change.path for change in repository.changes(newest.id, middle.id)]
    paths += [change.old_path for change in repository.changes(newest.id, middle.id) if change.old_path]
    for name, file in unpack(repository.tree(newest.id)).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(file.data)
    patch = repository.diff(newest.id, middle.id, paths).encode("utf-8", "surrogateescape")
    subprocess.run(["git", "apply", "-"], input=patch, cwd=tmp_path, check=True, env={"GIT_DIR": "/nonexistent"})
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {name: file.data for name, file in unpack(repository.tree(middle.id)).items()}
