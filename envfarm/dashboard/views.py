"""What pages and the API show of a run, put together from the store's counters. Nothing here scans items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from envfarm.core.base import Noun
from envfarm.core.ports import StageOutcome
from envfarm.store import Store, queries
from envfarm.store.rows import FunnelRow, Rate, RepoRow, RunRow
from envfarm.wiring.rungs import STAGES, rungs


class RunState(StrEnum):
    """Whether anything is happening."""

    running = "running"
    """Workers hold items."""
    waiting = "waiting"
    """Items wait, and no worker holds any."""
    finished = "finished"
    """Nothing is left."""
    new = "new"
    """Nothing was ever queued."""


class StageLine(Noun):
    """One stage's row of the funnel."""

    stage: str
    waiting: int = 0
    """Queued or delayed."""
    active: int = 0
    """Leased by a worker."""
    done: int = 0
    rejected: int = 0
    failed: int = 0
    wall_sec: float = 0.0
    cpu_sec: float = 0.0
    bytes_written: int = 0

    @property
    def entered(self) -> int:
        """Every item that ever reached the stage."""
        return self.waiting + self.active + self.done + self.rejected + self.failed


class Ending(Noun):
    """How often a stage ended with an outcome and a reason."""

    stage: str
    outcome: StageOutcome
    reason: str
    n: int


class Rungs(Noun):
    """Environment success of one group of repositories, in its three rungs."""

    key: str
    installs: Rate
    collects: Rate
    passes: Rate


class RepoLine(Noun):
    """One repository's row."""

    repo: str
    bases: int = 0
    """Newest revisions tried: 1, unless two repositories of the run share the short name."""
    healthy: int = 0
    """Those that reached the third rung of environment success."""
    candidates: int = 0
    kept: int = 0
    """Candidates that the static filter let pass."""
    validated: int = 0
    valid: int = 0
    published: int = 0


class Summary(Noun):
    """A run's line in the list of runs."""

    run: RunRow
    state: RunState
    candidates: int
    """Revision pairs that reached the static filter."""
    published: int
    environments: Rate


class Overview(Noun):
    """A run's page."""

    run: RunRow
    state: RunState
    source: str
    """The filter in force, or empty. Waiting and active items are counted only where there is none."""
    repo: str
    """The filter in force, or empty."""
    sources: tuple[str, ...]
    stages: tuple[StageLine, ...]
    rungs: Rungs
    rungs_by_source: tuple[Rungs, ...]
    endings: tuple[Ending, ...]
    """Rejections and failures, by stage and frequency."""
    published: dict[str, int]
    """Source -> published tasks."""


def summary(store: Store, run: RunRow) -> Summary:
    """From counters alone."""
    rows, live = queries.funnel(store, run.id), store.queue.counts(run.id)
    stages = {line.stage: line for line in stage_lines(rows, live)}
    return Summary(
        run=run,
        state=run_state(live, bool(rows)),
        candidates=stages.get("filter", StageLine(stage="filter")).entered,
        published=stages.get("publish", StageLine(stage="publish")).done,
        environments=rungs(_of(rows, "base"))[2],
    )


def overview(store: Store, run: RunRow, source: str = "", repo: str = "") -> Overview:
    """From counters alone. With both filters set, ``repo`` wins: counters by repository know no source."""
    rows = queries.funnel(store, run.id, repo or None)
    sources = tuple(sorted({row.source for row in rows if row.source}))
    live = store.queue.counts(run.id)
    state = run_state(live, bool(rows))
    if source and not repo:
        rows = [row for row in rows if row.source == source]
    filtered = bool(source or repo)
    return Overview(
        run=run,
        state=state,
        source="" if repo else source,
        repo=repo,
        sources=sources,
        stages=stage_lines(rows, {} if filtered else live),
        rungs=_rungs("all", _of(rows, "base")),
        rungs_by_source=_by_source(_of(rows, "base")),
        endings=endings(rows),
        published=_published(rows),
    )


def repositories(store: Store, run: str, limit: int, offset: int = 0) -> tuple[list[RepoLine], int]:
    """A page of a run's repositories, most published tasks first, and how many there are."""
    stages = ("base", "filter", "validate", "publish")
    rows, total = queries.repositories(store, run, ("mine", "base"), stages, "publish", limit, offset)
    return [_repo_line(row) for row in rows], total


def stage_lines(rows: Iterable[FunnelRow], live: Mapping[str, Mapping[str, int]]) -> tuple[StageLine, ...]:
    """The funnel, in pipeline order. ``live`` is what ``Queue.counts`` gives; only its live states are read."""
    sums: dict[str, dict[str, float]] = {}
    for row in rows:
        line = sums.setdefault(row.stage, {})
        for name, value in (
            (str(row.outcome), row.n), ("wall_sec", row.wall_sec),
            ("cpu_sec", row.cpu_sec), ("bytes_written", row.bytes_written),
        ):  # fmt: skip
            line[name] = line.get(name, 0) + value
    for stage, states in live.items():
        line = sums.setdefault(stage, {})
        line["waiting"] = states.get("queued", 0) + states.get("delayed", 0)
        line["active"] = states.get("leased", 0)
    return tuple(StageLine.model_validate({"stage": stage, **sums[stage]}) for stage in sorted(sums, key=order))


def order(stage: str) -> tuple[int, str]:
    """Sorts stages as the pipeline runs them."""
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def run_state(live: Mapping[str, Mapping[str, int]], ended: bool) -> RunState:
    """``ended`` says whether any item has reached its end."""
    if any(states.get("leased") for states in live.values()):
        return RunState.running
    if any(states.get("queued") or states.get("delayed") for states in live.values()):
        return RunState.waiting
    return RunState.finished if ended else RunState.new


def endings(rows: Iterable[FunnelRow]) -> tuple[Ending, ...]:
    """Rejections and failures of all sources together: pipeline order, most frequent first."""
    counts: dict[tuple[str, StageOutcome, str], int] = {}
    for row in rows:
        if row.outcome is not StageOutcome.done:
            key = (row.stage, row.outcome, row.reason)
            counts[key] = counts.get(key, 0) + row.n
    found = [Ending(stage=stage, outcome=outcome, reason=reason, n=n) for (stage, outcome, reason), n in counts.items()]
    return tuple(sorted(found, key=lambda ending: (order(ending.stage), -ending.n, ending.reason)))


def _of(rows: Sequence[FunnelRow], stage: str) -> list[FunnelRow]:
    return [row for row in rows if row.stage == stage]


def _by_source(rows: Sequence[FunnelRow]) -> tuple[Rungs, ...]:
    by_source: dict[str, list[FunnelRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    return tuple(_rungs(source, by_source[source]) for source in sorted(by_source) if source)


def _repo_line(row: RepoRow) -> RepoLine:
    done = {stage: outcomes.get(StageOutcome.done, 0) for stage, outcomes in row.counts.items()}
    all_ = {stage: sum(outcomes.values()) for stage, outcomes in row.counts.items()}
    return RepoLine(
        repo=row.repo,
        bases=all_.get("base", 0),
        healthy=done.get("base", 0),
        candidates=all_.get("filter", 0),
        kept=done.get("filter", 0),
        validated=all_.get("validate", 0),
        valid=done.get("validate", 0),
        published=done.get("publish", 0),
    )


def _published(rows: Iterable[FunnelRow]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.stage == "publish" and row.outcome is StageOutcome.done:
            counts[row.source] = counts.get(row.source, 0) + row.n
    return counts


def _rungs(key: str, rows: Sequence[FunnelRow]) -> Rungs:
    installs, collects, passes = rungs(rows)
    return Rungs(key=key, installs=installs, collects=collects, passes=passes)
