"""Git clones: nothing of theirs runs or decides; odd histories and trees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from envfarm_builders.issues import CommitMessageSource
from envfarm_builders.mine import RepositoryMiner, candidate_id
from envfarm_builders.repos.git import GitRepository
from envfarm_builders.repos.history import parse_changes, parse_date, parse_version

from envfarm.core.archive import unpack

from ..repositories import GitHistory


@pytest.fixture
def history(tmp_path: Path) -> GitHistory:
    history = GitHistory(tmp_path / "project")
    history.commit("Start", {"pkg/__init__.py": "X = 1\n", "tests/test_x.py": "def test_x(): pass\n"})
    return history


def test_configuration_hooks_and_attributes_are_mute(history: GitHistory, tmp_path: Path) -> None:
    first = history.git("rev-parse", "HEAD")
    (history.path / ".gitattributes").write_text(
        "*.py diff=evil filter=evil\ntests export-ignore\n*.txt export-subst\n"
    )
    second = history.commit("Change", {"pkg/__init__.py": "X = 2\n", "v.txt": "$Format:%H$\n"})
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "diff.evil.command", "diff.evil.textconv", "filter.evil.smudge",
                "core.pager", "core.sshCommand", "core.alternateRefsCommand", "gpg.program"):  # fmt: skip
        history.git("config", key, str(trap))
    history.git("config", "log.showSignature", "true")
    history.git("config", "diff.noprefix", "true")
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (history.path / ".git/hooks").mkdir(exist_ok=True)
        (history.path / ".git/hooks" / hook).symlink_to(trap)
    (history.path / ".git/info/attributes").write_text("*.py -diff\n")
    (history.path / ".git/info/grafts").write_text(f"{second}\n")
    repository = GitRepository(history.path)
    assert [commit.id for commit in repository.commits()] == [second, first]
    assert len(list(repository.history())) == 2
    assert "--- a/pkg/__init__.py" in repository.diff(first, second, ["pkg/__init__.py"])
    tree = unpack(repository.tree(second))
    assert "tests/test_x.py" in tree and tree["v.txt"].data == b"$Format:%H$\n"
    repository.close()
    assert not (tmp_path / "sprung").exists()


def test_submodules_and_escaping_links_are_left_out_and_noted(history: GitHistory) -> None:
    (history.path / "inside").symlink_to("pkg/__init__.py")
    (history.path / "outside").symlink_to("/etc/passwd")
    history.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored")
    history.git("add", "inside", "outside")
    history.git("commit", "--quiet", "-m", "Links")
    repository = GitRepository(history.path)
    head = history.git("rev-parse", "HEAD")
    tree = unpack(repository.tree(head))
    assert tree["inside"].link == "pkg/__init__.py" and "outside" not in tree and "vendored" not in tree
    assert len(repository.notes) == 2 and "vendored" not in repository.paths(head)
    repository.close()


def test_a_merge_is_one_change_against_its_first_parent(history: GitHistory) -> None:
    history.git("checkout", "--quiet", "-b", "topic")
    history.commit("Topic one begins", {"pkg/a.py": "A = 1\n"})
    history.commit("WIP", {"pkg/a.py": "A = 3\n"})
    history.commit("style: run black on a\n\nAll of it.", {"pkg/a.py": "A = 2\n"})
    history.git("checkout", "--quiet", "main")
    base = history.commit("Main", {"pkg/b.py": "B = 1\n"})
    history.git("merge", "--quiet", "--no-ff", "-m", "Merge pull request #1 from x/topic\n\nAdd a", "topic")
    repository = GitRepository(history.path)
    (merge, changes), *_ = repository.history()
    assert merge.parent == base and [change.path for change in changes] == ["pkg/a.py"]
    assert changes == repository.changes(base, merge.id)
    parent = next(commit for commit in repository.commits() if commit.id == base)
    issue = CommitMessageSource().issue(repository, parent, merge)
    assert issue is not None and (issue.title, issue.body) == ("Add a", "Topic one begins")
    repository.close()


def test_versions_come_from_the_highest_tag_reached(history: GitHistory) -> None:
    history.git("tag", "v1.0")
    history.commit("After", {"pkg/a.py": ""})
    history.git("checkout", "--quiet", "-b", "maintenance")
    history.commit("Patch", {"pkg/b.py": ""}, tag="release-1.0.1")
    history.git("checkout", "--quiet", "main")
    history.commit("More", {"pkg/c.py": ""})
    history.git("merge", "--quiet", "--no-ff", "-m", "Merge", "maintenance")
    history.git("tag", "nightly")
    repository = GitRepository(history.path)
    assert [commit.version for commit in repository.commits()] == ["1.0.1", "1.0", "1.0", "1.0"]
    repository.close()


def test_a_shallow_clone_and_a_linked_work_tree_work(history: GitHistory, tmp_path: Path) -> None:
    for number in range(3):
        history.commit(f"Commit {number}", {"pkg/__init__.py": f"X = {number + 5}\n"})
    shallow = tmp_path / "shallow"
    history.git("clone", "--quiet", "--depth=2", f"file://{history.path}", str(shallow))
    repository = GitRepository(shallow)
    newest, oldest = repository.commits()
    assert newest.parent == oldest.id and oldest.parent is None
    assert [candidate.fix_commit for candidate in RepositoryMiner().mine(repository, (), None)] == [newest.id]
    repository.close()
    history.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "HEAD~1")
    linked = GitRepository(tmp_path / "linked")
    assert next(linked.commits()).message == "Commit 1"
    linked.close()


def test_latin_1_sources_survive_diff_and_tree(history: GitHistory) -> None:
    head = history.git("rev-parse", "HEAD")
    data = "# -*- coding: latin-1 -*-\nNAME = 'Jürgen'\r\n".encode("latin-1")
    history.commit("Latin", {"pkg/latin.py": data})
    repository = GitRepository(history.path)
    newest = next(repository.commits())
    assert unpack(repository.tree(newest.id))["pkg/latin.py"].data == data
    assert data.splitlines()[1] in repository.diff(head, newest.id, ["pkg/latin.py"]).encode("utf-8", "surrogateescape")
    repository.close()


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found


def test_leaving_a_history_early_and_closing_end_git(history: GitHistory) -> None:
    for number in range(20):
        history.commit(f"Commit {number}")
    before = _children()
    repository = GitRepository(history.path)
    stream = repository.history()
    assert next(stream)[0].message == "Commit 19" and repository.read("HEAD", "pkg/__init__.py")
    assert len(_children() - before) >= 1
    stream.close()
    repository.close()
    assert _children() <= before


def test_mining_is_the_same_with_and_without_bulk_reading(history: GitHistory) -> None:
    history.commit("Add a", {"pkg/a.py": "A = 1\n", "tests/test_a.py": "def test_a(): pass\n"})
    history.commit("Move it", {"pkg/a.py": None, "lib/other/__init__.py": "A = 1\n"})
    repository = GitRepository(history.path)

    class Plain:
        """The port and nothing more."""

        ref, name = repository.ref, repository.name
        commits, changes, diff = repository.commits, repository.changes, repository.diff
        tree, read = repository.tree, repository.read

    fast = list(RepositoryMiner().mine(repository, (), None))
    assert fast == list(RepositoryMiner().mine(Plain(), (), None))
    assert [candidate.source_files for candidate in fast] == [("lib/other/__init__.py", "pkg/a.py"), ("pkg/a.py",)] or [
        candidate.source_files for candidate in fast
    ] == [("lib/other/__init__.py",), ("pkg/a.py",)]
    assert list(RepositoryMiner().mine(repository, (), 1)) == fast[:1]
    repository.close()


def test_ids_name_owner_and_repository(history: GitHistory, tmp_path: Path) -> None:
    moved = tmp_path / "Owner+Project" / "repo"
    moved.parent.mkdir()
    history.path.rename(moved)
    repository = GitRepository(moved)
    commit = next(repository.commits())
    assert candidate_id(repository, commit) == f"owner__project-{commit.id[:8]}"
    repository.close()


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("1.2", "1.2"), ("v1.2.3", "1.2.3"), ("release-1.2", "1.2"), ("pkg-1.2.0", "1.2.0"), ("rel_1_2_3", "1.2.3"),
        ("release/1.2", "1.2"), ("v2.0rc1", "2.0rc1"), ("nightly", None), ("", None),
    ],
)  # fmt: skip
def test_tags_as_versions(tag: str, version: str | None) -> None:
    found = parse_version(tag)
    assert (str(found) if found else None) == version


def test_odd_logs_are_read() -> None:
    assert parse_date("2024-13-99T00:00:00Z").year == 1970
    assert parse_changes([]) == ()
    (change,) = parse_changes([b":100644 100644 a b T", b"link", b"1\t1\tlink"])
    assert (change.status, change.added) == ("T", 1)


def test_the_shadow_of_a_killed_process_is_swept_and_a_living_ones_kept(tmp_path: Path) -> None:
    history = GitHistory(tmp_path / "repo")
    history.commit("Start", {"a.py": ""})
    script = (
        "import os, signal, sys; from pathlib import Path; from envfarm_builders.repos.git import GitRepository\n"
        f"repository = GitRepository(Path({str(history.path)!r}))\n"
        "print(*sorted(os.listdir(os.environ['TMPDIR'])), flush=True)\n"
        "sys.argv[1] == 'die' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.stdin.read()\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()

    def start(what: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", script, what]
        return subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    living = start("live")
    assert living.stdout and living.stdin
    (held,) = living.stdout.readline().split()
    dead = start("die")
    seen, _ = dead.communicate()
    assert len(seen.split()) == 2 and dead.returncode == -signal.SIGKILL
    after = start("live")
    assert after.stdout and after.stdin
    shadows = after.stdout.readline().split()
    assert held in shadows and len(shadows) == 2 and set(seen.split()) - {held} != set(shadows) - {held}
    for process in (living, after):
        process.communicate("")
    assert not list((tmp_path / "tmp").iterdir())
