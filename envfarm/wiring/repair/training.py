"""The source of a training run on published synth tasks: real boxes, real tests, real verdicts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from envfarm_rl.engine.embedded import EmbeddedEngine
from envfarm_rl.engine.sampling import Sampling
from envfarm_rl.episodes import AgentSource, FarmPlayer
from envfarm_rl.repair.prompt import page
from envfarm_rl.repair.source import repair_source
from envfarm_rl.repair.world import RecordedPlayer
from envfarm_rl.samples import Outcome
from envfarm_rl.text.tokenizer import load_tokenizer

from envfarm.core.config import Config, load_config
from envfarm.core.errors import ConfigError, Reason
from envfarm.core.ports import Policy
from envfarm.core.rollout import Rollout
from envfarm.core.task import Task
from envfarm.rollout.minimal import MinimalHarness
from envfarm.rollout.play import Player

from ..app import App, open_app, open_store
from .boxes import OUTPUT_CHARACTERS, OWNER, BoxWorld
from .tasks import RepairTask, selected_tasks

TURNS = 24
"""Of an episode: four edits, each run and taken back, need sixteen."""


class FarmRollouts:
    """Repair tasks in boxes of this machine. Satisfies ``RolloutSource``."""

    def __init__(self, app: App, tasks: Mapping[str, RepairTask]) -> None:
        self._app, self._tasks = app, tasks
        self._player = Player(
            provider=app.provider,
            harness=MinimalHarness(turn_limit=TURNS, output_chars=OUTPUT_CHARACTERS, opening=self._opening),
            verifier=app.grader,
            blobs=app.blobs,
            limits=app.config.limits,
            owner=OWNER,
        )

    async def rollout(self, task_id: str, policy: Policy, *, seed: int = 0) -> Rollout:
        """See the port."""
        found = self._tasks[task_id]
        return await self._player.play(found.task, found.environment, policy, seed=seed)

    def _opening(self, task: Task) -> str:
        return page(self._tasks[task.id].problem)


class _Boxes:
    """Plays episodes with boxes that are started when the first one is asked for."""

    def __init__(self, config: Config, tasks: Mapping[str, RepairTask], *, runs: int, record: Path | None) -> None:
        self._config, self._tasks, self._runs, self._record = config, tasks, runs, record
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._player: FarmPlayer | RecordedPlayer | None = None

    async def play(self, task: str, policy: Policy, *, seed: int) -> tuple[Outcome, str]:
        """See ``EpisodePlayer``."""
        async with self._opening:  # many episodes begin at once, and one of them opens
            if self._player is None:
                self._player = await self._open()
        return await self._player.play(task, policy, seed=seed)

    async def _open(self) -> FarmPlayer | RecordedPlayer:
        app = await self._stack.enter_async_context(open_app(self._config))
        if self._record is None:
            return FarmPlayer(FarmRollouts(app, self._tasks))
        problems = {name: found.problem for name, found in self._tasks.items()}
        return RecordedPlayer(problems, BoxWorld(app, self._tasks.values(), self._record), self._runs)

    async def close(self) -> None:
        """End every box."""
        self._player = None
        await self._stack.aclose()


def source(
    *,
    engine: EmbeddedEngine,
    sampling: Sampling,
    run: str | Sequence[str],
    tokenizer: str,
    home: str = "",
    runs: int = 0,
    record: str = "",
    packages: Sequence[str] = (),
    limit: int = 0,
    concurrency: int = 8,
) -> AgentSource:
    """``envfarm.wiring.repair.training:source``: the published synth tasks of the build run ``run``, or of several;
    ``RUN:PACKAGE,PACKAGE`` takes those of some packages alone.

    ``runs`` is an episode's budget of test runs. With ``record`` (a file) each distinct edit is put to a box once and
    episodes are played from what it did; without, every episode has a box of its own, ``concurrency`` of them at once.
    ``packages`` keeps tasks of those alone, ``limit`` the first so many. Raises ``ConfigError`` where the run has none.
    """
    config = load_config(flags={"home": home or None})
    store, blobs = open_store(config)
    with contextlib.closing(store):
        names = [run] if isinstance(run, str) else list(run)
        found = selected_tasks(store, blobs, names)
    tasks = {each.task.id: each for each in found if not packages or each.task.repo_name in packages}
    if limit:
        tasks = dict(list(tasks.items())[:limit])
    if not tasks:
        raise ConfigError(
            f"There is no published synth task that fits on a page in {', '.join(names)}.",
            reason=Reason.not_found,
            phase="train",
            remedy="Build some first: envfarm build pypi:NAME --synth 16 --no-history --run NAME.",
        )
    return repair_source(
        engine=engine,
        sampling=sampling,
        tokenizer=load_tokenizer(Path(tokenizer)),
        problems={name: found.problem for name, found in tasks.items()},
        player=_Boxes(config, tasks, runs=runs, record=Path(record) if record else None),
        runs=runs,
        concurrency=1024 if record else concurrency,
    )
