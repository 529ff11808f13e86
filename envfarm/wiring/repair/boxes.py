"""What an edit does, found out once in a real box and by the real grader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from envfarm_rl.repair.protocol import REVERT, make, run_test
from envfarm_rl.repair.world import Tried

from envfarm.core.box import BoxSpec
from envfarm.core.errors import Reason, SandboxError, Tier
from envfarm.core.ports import Sandbox
from envfarm.core.rollout import Submission, ToolCall
from envfarm.core.verdict import Verdict
from envfarm.rollout.place import place
from envfarm.rollout.submission import Snapshot, snapshot, submission
from envfarm.rollout.tools import ENDED, run_tool

from ..app import App
from .tasks import RepairTask

OUTPUT_CHARACTERS = 400
"""Of a tool's answer: a tiny policy has a short context."""
OWNER = "repair"
TEST_SEC = 60
"""After which a run of the shown test is ended, and has not passed."""


class BoxWorld:
    """Satisfies ``envfarm_rl.repair.world.World``. Each distinct edit of a task runs once; answers are kept in a file,
    one line each, so that the next process knows them too."""

    def __init__(
        self, app: App, tasks: Iterable[RepairTask], file: Path | None = None, *, concurrency: int = 2
    ) -> None:
        self._app = app
        self._tasks: Mapping[str, RepairTask] = {each.task.id: each for each in tasks}
        self._file = file
        self._known: dict[tuple[str, str], Tried] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(concurrency)
        self.asked = 0
        """Questions so far."""
        self.ran = 0
        """Edits that ran in a box."""
        self.graded = 0
        """Of those, how many the grader was asked about."""
        if file is not None and file.exists():
            for line in file.read_text("utf-8").splitlines():
                entry = json.loads(line)
                self._known[entry["task"], entry["command"]] = Tried(entry["line"], entry["passed"])

    @property
    def hit_rate(self) -> float:
        """Share of questions that needed no box."""
        return 1 - self.ran / self.asked if self.asked else 0.0

    async def tried(self, task: str, edit: int) -> Tried:
        """See the port. Raises ``ProviderError`` and ``SandboxError`` where no box could answer."""
        self.asked += 1
        known = self._known.get(self._key(task, edit))
        if known is not None:
            return known
        async with self._locks.setdefault(task, asyncio.Lock()):  # who asked meanwhile finds the answer
            await self._find_out(self._tasks[task], [edit])
        return self._known[self._key(task, edit)]

    async def all_tried(self, task: str) -> list[Tried]:
        """Of every valid edit of a task, in one box for what is not known."""
        found = self._tasks[task]
        async with self._locks.setdefault(task, asyncio.Lock()):
            await self._find_out(found, range(len(found.problem.edits)))
        return [self._known[self._key(task, index)] for index in range(len(found.problem.edits))]

    async def _find_out(self, found: RepairTask, edits: Iterable[int]) -> None:
        unknown = [index for index in edits if self._key(found.task.id, index) not in self._known]
        if not unknown:
            return
        async with self._slots:
            spec = BoxSpec(environment=found.environment, limits=self._app.config.limits, owner=OWNER)
            sandbox = await self._app.provider.acquire(spec)
            try:
                await place(found.task, found.environment, sandbox, self._app.blobs)
                before = await snapshot(found.task, sandbox)
                runs = [(index, *await self._run(found, index, before, sandbox)) for index in unknown]
            finally:
                await self._app.provider.release(sandbox)
            for index, line, handed_in in runs:
                self.ran += 1
                verdict = None if handed_in is None else await self._grade(found, handed_in)
                self._keep(self._key(found.task.id, index), Tried(line, verdict is not None and verdict.passed))

    async def _run(
        self, found: RepairTask, index: int, before: Snapshot, sandbox: Sandbox
    ) -> tuple[str, Submission | None]:
        """Make one edit of the untouched tree and run the shown test: what that said, and what to hand in where the
        grader may have another opinion. The shown test is one of those that must pass: where it fails, none has."""
        shown = bool(found.problem.shown_test)
        parts = [REVERT, make(found.problem, found.problem.edits[index]), *([run_test(found.problem)] if shown else [])]
        commands = [str(call.arguments["command"]) for call in parts]
        commands.insert(2, "! git diff --quiet")
        together = ToolCall(name="bash", arguments={"command": " && ".join(commands)})
        said = await run_tool(together, sandbox, timeout_sec=TEST_SEC, output_chars=OUTPUT_CHARACTERS)
        if ENDED in said:  # by an edit that has the shown test run for ever
            return said, None
        if not said.endswith("[exit code 0]"):
            raise SandboxError(
                f"'{commands[1]}' did nothing in a fresh box of {found.task.id}: {said.strip()}.",
                reason=Reason.internal,
                phase="repair",
                tier=Tier.task,
            )
        if shown and (" passed" not in said or " failed" in said):
            return said, None
        return said if shown else "", submission(found.task, before, await snapshot(found.task, sandbox))

    async def _grade(self, found: RepairTask, handed_in: Submission) -> Verdict:
        verdict = await self._app.grader.grade(found.task, found.environment, handed_in)
        self.graded += 1
        return verdict

    def _key(self, task: str, edit: int) -> tuple[str, str]:
        # The digest binds an answer to the tree, the tests and the environment; the grader's version to the judge.
        found = self._tasks[task]
        command = make(found.problem, found.problem.edits[edit]).arguments["command"]
        return f"{found.task.digest} {self._app.grader.version}", str(command)

    def _keep(self, key: tuple[str, str], answer: Tried) -> None:
        self._known[key] = answer
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        entry = {"task": key[0], "command": key[1], "line": answer.line, "passed": answer.passed}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
