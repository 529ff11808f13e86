"""Ended items, newest first, in pages that cost the same however many there are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from envfarm.core.errors import FailureRecord
from envfarm.core.ports import StageOutcome

from .. import tables as t
from ..codec import load
from ..db import Store
from ..rows import EventRow
from .progress import reasons
from .reading import read, time_of


def events(
    store: Store,
    run: str,
    stage: str | None = None,
    outcome: str | None = None,
    reason: str | None = None,
    repo: str | None = None,
    limit: int = 100,
    offset: int = 0,
    before: int | None = None,
) -> list[EventRow]:
    """Ended items of a run, newest first. ``before`` is the id of the last one seen: pages by it cost the same
    however far down they are, while ``offset`` reads what it skips."""
    e = t.events
    where = [e.c.run == run]
    if before is not None:
        where.append(e.c.id < before)
    driving = e.c.repo if repo is not None else e.c.reason if reason is not None else None
    if driving is not None:
        for column, value in ((e.c.repo, repo), (e.c.reason, reason), (e.c.stage, stage), (e.c.outcome, outcome)):
            if value is not None:
                # Joined to nothing, a column is no index key: so the rows come in order from the driving one's index.
                where.append((column if column is driving else column + "") == value)
        return _events(store, sa.select(e).where(*where), limit, offset)
    # An index reads one stage and outcome in order; so a page is merged from the heads of those it may hold.
    outcomes = [outcome] if outcome is not None else [str(item) for item in StageOutcome]
    stages = [stage] if stage is not None else sorted({row.stage for row in reasons(store, run)})
    heads = [
        sa.select(e)
        .where(*where, e.c.stage == one, e.c.outcome == each)
        .order_by(e.c.id.desc())
        .limit(limit + offset)
        .subquery()
        for one in stages
        for each in outcomes
    ]
    if not heads:
        return []
    merged = sa.union_all(*(sa.select(head) for head in heads)).subquery()
    return _events(store, sa.select(merged), limit, offset)


def quarantined(store: Store, run: str, limit: int = 1000, offset: int = 0) -> list[EventRow]:
    """Items given up, with their last failure, newest first."""
    return events(store, run, outcome=StageOutcome.failed, limit=limit, offset=offset)


def _events(store: Store, query: sa.Select[*tuple[Any, ...]], limit: int, offset: int) -> list[EventRow]:
    ordered = query.order_by(sa.desc("id")).limit(limit).offset(offset)
    return [_event(row) for row in read(store, ordered)]


def _event(row: Row[Any]) -> EventRow:
    values = {**row._mapping, "at": time_of(row.at)}
    values["failure"] = load(FailureRecord, row.failure) if row.failure else None
    del values["item_id"]
    return EventRow.model_validate(values)
