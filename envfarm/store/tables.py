"""Every table. Bodies are whole nouns as JSON; beside them stand only the columns that a query filters or sorts by.

``body`` as text is plain JSON; ``packed`` is zstd over JSON, for nouns that hold test lists, reports or turns.
Times are UTC epoch seconds.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from envfarm.core.base import digest_json, short

metadata = MetaData()

_Serial = BigInteger().with_variant(Integer, "sqlite")


def _text(name: str, **options: object) -> Column[str]:
    return Column(name, Text, nullable=False, **options)  # pyright: ignore[reportArgumentType]


def _number(name: str) -> Column[float]:
    return Column(name, Float, nullable=False)


meta = Table("meta", metadata, _text("name", primary_key=True), _text("value"))

runs = Table(
    "runs", metadata, _text("id", primary_key=True), _text("kind"), _text("config"), _number("created_at")
)  # fmt: skip

candidates = Table(
    "candidates",
    metadata,
    _text("id", primary_key=True),
    _text("run", primary_key=True),
    _text("body"),
)

tasks = Table(
    "tasks",
    metadata,
    _text("id", primary_key=True),
    _text("run", primary_key=True),
    _text("state"),
    _text("kind"),
    _text("repo_name"),
    _text("digest"),
    Column("packed", LargeBinary, nullable=False),
    _number("updated_at"),
    Column("published_at", Float),
    Index("tasks_by_run", "run", "id"),
    Index("tasks_by_state", "run", "state", "id"),
    Index("tasks_by_repo", "run", "repo_name", "id"),
)

recipes = Table("recipes", metadata, _text("digest", primary_key=True), _text("body"))

environments = Table(
    "environments",
    metadata,
    _text("digest", primary_key=True),
    _text("recipe_digest", index=True),
    _text("repo_name"),
    _text("body"),
    _number("built_at"),
)

run_environments = Table(
    "run_environments", metadata, _text("run", primary_key=True), _text("digest", primary_key=True)
)  # fmt: skip

validations = Table(
    "validations",
    metadata,
    _text("task_id", primary_key=True),
    _text("environment_digest", primary_key=True),
    Column("valid", Boolean, nullable=False),
    _text("reason"),
    Column("packed", LargeBinary, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    _text("task_digest", primary_key=True),
    _text("submission_digest", primary_key=True),
    _text("grader", primary_key=True),
    _text("task_id", index=True),
    _text("outcome"),
    Column("packed", LargeBinary, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    _text("id", primary_key=True),
    _text("run"),
    _text("task_id", index=True),
    _text("policy"),
    _text("stop"),
    _text("outcome"),
    _number("started_at"),
    Column("packed", LargeBinary, nullable=False),
    Index("rollouts_by_run", "run", "started_at", "id"),
)

items = Table(
    "items",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    _text("run"),
    _text("stage"),
    _text("key"),
    _text("payload"),
    _text("source"),
    _text("repo"),
    _text("state"),
    Column("due_at", Float),
    Column("attempt", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
    _text("worker"),
    _text("failure"),
    UniqueConstraint("run", "stage", "key"),
    # Leaves behind many dead rows at the head of the index below: vacuum early.
    postgresql_with={"autovacuum_vacuum_scale_factor": "0.02"},
)
"""The work queue. ``due_at`` is when the item may be leased: now for a queued one, later for a delayed one, the end
of the lease for a leased one, and nothing for a finished one. So one partial index answers every lease."""

Index(
    "items_due", items.c.run, items.c.stage, items.c.due_at, items.c.id,
    sqlite_where=items.c.due_at.isnot(None), postgresql_where=items.c.due_at.isnot(None),
)  # fmt: skip
Index(
    "items_leased", items.c.run, items.c.stage, items.c.due_at,
    sqlite_where=items.c.state == sa.literal_column("'leased'"),
    postgresql_where=items.c.state == sa.literal_column("'leased'"),
)  # fmt: skip

events = Table(
    "events",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("item_id", BigInteger, nullable=False, unique=True),
    _text("run"),
    _text("stage"),
    _text("key"),
    _text("source"),
    _text("repo"),
    _text("outcome"),
    _text("reason"),
    _text("detail"),
    _text("failure"),
    _text("log"),
    Column("attempt", Integer, nullable=False),
    _text("worker"),
    _number("wall_sec"),
    _number("cpu_sec"),
    Column("bytes_written", BigInteger, nullable=False),
    _number("at"),
    Index("events_by_outcome", "run", "stage", "outcome", "id"),
    Index("events_by_reason", "run", "reason", "id"),
    Index("events_by_repo", "run", "repo", "id"),
)
"""One row for each item that reached its end: the constraint on ``item_id`` forbids a second result."""


def _funnel(name: str, label: Column[str], *more: Column[int]) -> Table:
    return Table(
        name,
        metadata,
        _text("run", primary_key=True),
        _text("stage", primary_key=True),
        label,
        _text("outcome", primary_key=True),
        _text("reason", primary_key=True),
        *more,
        Column("n", BigInteger, nullable=False),
        _number("wall_sec"),
        _number("cpu_sec"),
        Column("bytes_written", BigInteger, nullable=False),
    )


funnel = _funnel(
    "funnel", _text("source", primary_key=True), Column("shard", Integer, primary_key=True, autoincrement=False)
)
"""Counters by source, spread over shards by worker so that finishing workers do not wait for one another's row."""

funnel_repos = _funnel("funnel_repos", _text("repo", primary_key=True))
"""The same by repository: apart, so that a farm of 10,000 repositories does not slow down the page of totals."""

farms = Table(
    "farms", metadata, _text("name", primary_key=True), Column("epoch", BigInteger, nullable=False), _text("holder"),
    _number("until"), _text("secret"),
)  # fmt: skip
"""Who controls a farm. ``epoch`` grows with each change of hands and fences off the one before. Tokens of
boxes follow from ``secret``."""

slots = Table(
    "slots",
    metadata,
    _text("farm", primary_key=True),
    _text("pool", primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("generation", Integer, nullable=False),
    _text("holder"),
    Column("token", BigInteger, nullable=False),
    Column("until", Float),
)
"""Places of a farm's pools. ``generation`` counts the boxes that a place was ever meant to hold, and is written before
the box is asked for: a name follows from it, so that a box whose making was never confirmed is found again by name.
``holder`` is who has leased the box, until ``until``; ``token`` is the newest lease's."""

SCHEMA = "1-" + short(digest_json({t.name: [str(c.name) for c in t.columns] for t in metadata.sorted_tables}))
"""Version and a digest of all columns, so that a changed table cannot pass for an old one."""
