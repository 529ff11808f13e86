"""How far a run has come: its funnel, its reasons, its rates, its repositories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa

from envfarm.core.ports import StageOutcome
from envfarm.core.stats import wilson

from .. import tables as t
from ..codec import load_value
from ..db import Store
from ..rows import FunnelRow, Rate, ReasonRow, RepoRow, RunRow
from .reading import read, time_of, total


def runs(store: Store) -> list[RunRow]:
    """All runs, newest first."""
    rows = read(store, sa.select(t.runs).order_by(t.runs.c.created_at.desc(), t.runs.c.id))
    return [
        RunRow(id=row.id, kind=row.kind, config=load_value(row.config), created_at=time_of(row.created_at))
        for row in rows
    ]


def funnel(store: Store, run: str, repo: str | None = None) -> list[FunnelRow]:
    """Ended items of a run by stage, source, outcome and reason; of one repository (source then empty) if named."""
    table = t.funnel if repo is None else t.funnel_repos
    source = table.c.source if repo is None else sa.literal("").label("source")
    group = [table.c.stage, source, table.c.outcome, table.c.reason]
    query = (
        sa.select(
            *group,
            total(table.c.n).label("n"),
            sa.func.sum(table.c.wall_sec).label("wall_sec"),
            sa.func.sum(table.c.cpu_sec).label("cpu_sec"),
            total(table.c.bytes_written).label("bytes_written"),
        )
        .where(table.c.run == run)
        .group_by(table.c.stage, table.c.outcome, table.c.reason, *([source] if repo is None else []))
        .order_by(table.c.stage, "source", table.c.outcome, table.c.reason)
    )
    if repo is not None:
        query = query.where(table.c.repo == repo)
    return [FunnelRow.model_validate(dict(row._mapping)) for row in read(store, query)]


def reasons(store: Store, run: str, stage: str | None = None, repo: str | None = None) -> list[ReasonRow]:
    """Why items of a run ended as they did, most frequent first."""
    table = t.funnel if repo is None else t.funnel_repos
    group = (table.c.stage, table.c.outcome, table.c.reason)
    query = sa.select(*group, total(table.c.n).label("n")).where(table.c.run == run).group_by(*group)
    if stage is not None:
        query = query.where(table.c.stage == stage)
    if repo is not None:
        query = query.where(table.c.repo == repo)
    rows = [ReasonRow.model_validate(dict(row._mapping)) for row in read(store, query)]
    return sorted(rows, key=lambda row: (-row.n, row.stage, row.reason))


def environment_success(
    store: Store, run: str, by: Literal["source", "repo", "reason"] = "source", stage: str = "build"
) -> list[Rate]:
    """Environments built over environments tried, all failures counted, by ``source`` or ``repo``.

    ``by="reason"`` gives each way to end (``done`` for success) as a share of all tried.
    """
    table = t.funnel_repos if by == "repo" else t.funnel
    built = sa.case((table.c.outcome == StageOutcome.done, table.c.n), else_=0)
    key = {"source": "source", "repo": "repo", "reason": "reason"}[by]
    query = (
        sa.select(table.c[key].label("key"), total(built).label("built"), total(table.c.n).label("n"))
        .where(table.c.run == run, table.c.stage == stage)
        .group_by(table.c[key])
        .order_by(table.c[key])
    )
    rows = read(store, query)
    if by != "reason":
        return [_rate(row.key, row.built, row.n) for row in rows]
    tried = sum(row.n for row in rows)
    return [_rate(row.key or StageOutcome.done, row.n, tried) for row in rows]


def repositories(
    store: Store, run: str, entry: Sequence[str], stages: Sequence[str], first: str, limit: int = 100, offset: int = 0
) -> tuple[list[RepoRow], int]:
    """A page of repositories with their ended items at ``stages``, and how many there are (0 beyond the last page).

    A repository is there once it has ended one of the stages ``entry``. Those with most items done at the stage
    ``first`` come first, then by name.
    """
    f = t.funnel_repos
    done = sa.case(((f.c.stage == first) & (f.c.outcome == StageOutcome.done), f.c.n), else_=0)
    here = (f.c.run == run) & f.c.stage.in_([*entry, first])
    order = sa.func.sum(done).desc(), f.c.repo
    page = read(
        store,
        sa.select(f.c.repo, sa.func.count().over().label("total")).where(here).group_by(f.c.repo).order_by(*order)
        .limit(limit).offset(offset),
    )  # fmt: skip
    counts: dict[str, dict[str, dict[StageOutcome, int]]] = {row.repo: {} for row in page}
    wanted = (f.c.run == run) & f.c.stage.in_(stages) & f.c.repo.in_(list(counts))
    group = (f.c.repo, f.c.stage, f.c.outcome)
    for row in read(store, sa.select(*group, total(f.c.n).label("n")).where(wanted).group_by(*group)):
        counts[row.repo].setdefault(row.stage, {})[StageOutcome(row.outcome)] = row.n
    return [RepoRow(repo=repo, counts=each) for repo, each in counts.items()], page[0].total if page else 0


def _rate(key: str, k: int, n: int) -> Rate:
    low, high = wilson(k, n)
    return Rate(key=key, k=k, n=n, low=low, high=high)
