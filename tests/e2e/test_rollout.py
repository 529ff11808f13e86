"""The rollout path in real boxes: place, tools, harness, submission."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from envfarm.core.archive import File, pack
from envfarm.core.box import BoxSpec, ExecRequest
from envfarm.core.environment import Environment, InstallMode
from envfarm.core.ports import Sandbox
from envfarm.core.rollout import Role, StopReason, ToolCall, Turn
from envfarm.core.source import IssueKind
from envfarm.core.task import Statement, Task, TaskKind
from envfarm.rollout.minimal import MinimalHarness
from envfarm.rollout.place import place
from envfarm.rollout.policies import Edit, Noop, Oracle, RandomEdit, unique_replacement
from envfarm.sandbox.local import LocalProvider
from envfarm.store.blobs import FsspecBlobs
from tests.contract.local_home import open_home

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE = "def total(items):\n    return sum(items) - 1\n"
GOLD = """diff --git a/pkg/sums.py b/pkg/sums.py
--- a/pkg/sums.py
+++ b/pkg/sums.py
@@ -1,2 +1,2 @@
 def total(items):
-    return sum(items) - 1
+    return sum(items)
"""


class Script:
    """Plays given calls, one turn each, then finishes."""

    name = "script"

    def __init__(self, *calls: ToolCall) -> None:
        self.calls = [*calls, ToolCall(name="finish")]

    async def act(self, turns):
        return Turn(role=Role.assistant, tool_calls=(self.calls.pop(0),))


def bash(command: str) -> ToolCall:
    return ToolCall(name="bash", arguments={"command": command}, id="b")


@pytest.fixture(scope="module")
def home():
    with open_home() as path:
        yield path


@pytest.fixture
def blobs(home):
    return FsspecBlobs(str(home / "blobs"))


@pytest.fixture
def environment(blobs) -> Environment:
    generated = blobs.put(pack({"pkg/_version.py": File(b"version = '1'\n"), "pkg/sums.py": File(b"stale\n")}))
    return Environment(
        recipe_digest="sha256:0",
        toolchain="3",
        layers=(),
        generated=generated,
        install_mode=InstallMode.none,
        built_at=NOW,
    )


@pytest.fixture
def task(blobs) -> Task:
    tree = pack(
        {"pkg/sums.py": File(SOURCE.encode()), "tests/test_sums.py": File(b"# public\n"), "README": File(b"r\n")}
    )
    return Task(
        id="toy__sums-1",
        kind=TaskKind.commit,
        repo="git:toy",
        repo_name="sums",
        base_commit="0" * 40,
        created_at=NOW,
        statement=Statement(text="total is one too small", source=IssueKind.commit),
        tree=blobs.put(tree),
        tests=blobs.put(pack({})),
        gold_patch=blobs.put(GOLD.encode()),
        source_paths=("pkg/",),
        test_files=("tests/test_sums.py",),
    )


@pytest.fixture
async def box(home, environment, task, blobs) -> AsyncIterator[Sandbox]:
    async with LocalProvider(home) as provider:
        sandbox = await provider.acquire(BoxSpec(environment=environment, owner="test"))
        await place(task, environment, sandbox, blobs)
        yield sandbox


async def play(task, box, *calls):
    return await MinimalHarness(tool_timeout_sec=10).run(task, box, Script(*calls))


def observations(rollout) -> list[str]:
    return [turn.text for turn in rollout.turns if turn.role is Role.tool]


async def shell(box, command: str) -> str:
    result = await box.exec(ExecRequest(argv=("/bin/sh", "-c", command)))
    return (result.stdout + result.stderr).decode()


async def test_the_box_holds_one_sealed_commit_and_the_tree_wins_over_what_was_generated(box):
    assert (await shell(box, "git log --format=%s --all")).split() == ["base"]
    assert (await shell(box, "git tag; git remote; git reflog; git stash list; ls .git/logs 2>&1")).count("\n") == 1
    assert await shell(box, "git fsck --unreachable --dangling --no-reflogs") == ""
    assert await shell(box, "cat pkg/sums.py") == SOURCE
    assert await shell(box, "cat pkg/_version.py") == "version = '1'\n"
    assert await shell(box, "git status --porcelain") == ""


async def test_noop_hands_in_nothing(task, box):
    rollout = await MinimalHarness().run(task, box, Noop())
    assert rollout.stop is StopReason.finished
    assert rollout.submission is not None
    assert rollout.submission.patch == ""


async def test_the_oracle_hands_in_the_gold_patch(task, box):
    rollout = await MinimalHarness().run(task, box, Oracle(GOLD))
    assert rollout.submission is not None
    assert rollout.submission.patch == GOLD
    assert rollout.submission.task_digest == task.digest


async def test_random_edit_makes_the_edit_it_drew(task, box):
    after = SOURCE.replace("- 1", "+ 1")
    rollout = await MinimalHarness().run(task, box, RandomEdit(lambda rng: Edit("pkg/sums.py", SOURCE, after)))
    assert rollout.submission is not None
    assert "+    return sum(items) + 1" in rollout.submission.patch


async def test_only_declared_source_files_are_handed_in(task, box):
    rollout = await play(
        task,
        box,
        bash("echo 'x = 1' > tests/test_sums.py; echo evil > conftest.py"),
        bash("echo 'y = 2' > pkg/new.py; ln -s /etc pkg/link; mkfifo pkg/pipe"),
        bash("mkdir pkg/__pycache__; echo no > pkg/__pycache__/sums.pyc; rm pkg/sums.py"),
    )
    assert rollout.submission is not None
    assert "b/pkg/new.py" in rollout.submission.patch
    assert "deleted file mode" in rollout.submission.patch
    for foreign in ("conftest", "tests/", "link", "pycache"):
        assert foreign not in rollout.submission.patch


async def test_str_replace_needs_exactly_one_match_in_a_file_of_the_tree(task, box):
    def replace(path, old, new):
        return ToolCall(name="str_replace", arguments={"path": path, "old": old, "new": new}, id="s")

    rollout = await play(
        task,
        box,
        replace("pkg/sums.py", "nothing", "x"),
        replace("pkg/sums.py", "s", "x"),
        replace("pkg/none.py", "a", "b"),
        replace("../etc/passwd", "root", "me"),
        replace("pkg", "root", "me"),
        bash("ln -s /etc/passwd pkg/sly.py"),
        replace("pkg/sly.py", "root", "me"),
        replace("/repo/pkg/sums.py", "- 1", ""),
    )
    seen = observations(rollout)
    assert "occurs 0 times" in seen[0]
    assert "not once" in seen[1]
    assert "is not a file" in seen[2]
    assert "outside the repository" in seen[3]
    assert "is not a file" in seen[4]
    assert "is not a file" in seen[6]
    assert "was changed" in seen[7]
    assert rollout.submission is not None
    assert "+    return sum(items) \n" in rollout.submission.patch


async def test_bad_calls_are_answered_and_scored_never_masked(task, box):
    rollout = await play(
        task,
        box,
        ToolCall(name="rm_rf"),
        ToolCall(name="bash", arguments={"cmd": "ls"}),
        ToolCall(name="bash"),
        ToolCall(name="bash", arguments={"command": 3}),
    )
    seen = observations(rollout)
    assert "no tool 'rm_rf'" in seen[0]
    assert "does not take cmd" in seen[1]
    assert "needs command" in seen[2]
    assert "must be text" in seen[3]
    assert rollout.stop is StopReason.finished
    assert rollout.submission is not None


async def test_a_policy_that_never_finishes_meets_its_turn_limit(task, box):
    class Talker:
        name = "talker"

        async def act(self, turns):
            return Turn(role=Role.assistant, text="hm")

    rollout = await MinimalHarness(turn_limit=3).run(task, box, Talker())
    assert rollout.stop is StopReason.turn_limit
    assert sum(turn.role is Role.assistant for turn in rollout.turns) == 3
    assert rollout.submission is not None


async def test_output_is_cut_in_the_middle_and_a_hanging_command_is_ended(task, box):
    rollout = await MinimalHarness(tool_timeout_sec=1, output_chars=200).run(
        task, box, Script(bash("seq 1 10000"), bash("sleep 60"), bash("exit 3"), bash("kill -9 $$"))
    )
    seen = observations(rollout)
    assert "characters left out" in seen[0]
    assert len(seen[0]) < 400
    assert "was ended after 1 s" in seen[1]
    assert "[exit code 3]" in seen[2]
    assert "ended by signal 9" in seen[3]


def test_the_replaced_text_is_unique():
    before = "a = 1\nb = 1\na = 1\nb = 1\n"
    after = "a = 1\nb = 1\na = 2\nb = 1\n"
    old, new = unique_replacement(before, after)
    assert before.count(old) == 1
    assert before.replace(old, new) == after
