"""What the page of a training run shows, made of the records in its ``metrics.jsonl``. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from envfarm.core.base import Noun
from envfarm.telemetry.training import TrainingRun, masked_episodes

from .formatting import count, percent

WIDTH, HEIGHT = 200.0, 60.0
"""Of a chart, in units of its own: the browser stretches it."""

Record = dict[str, Any]


class Line(Noun):
    """A curve of a chart."""

    label: str
    points: str
    """``x,y x,y ...`` for an SVG polyline; empty where nothing was measured."""
    last: str
    """The newest value, as people read it."""


class Chart(Noun):
    """One to three curves over steps, on one scale from zero up."""

    title: str
    top: str
    """What the upper edge stands for."""
    lines: tuple[Line, ...]


class StepRow(Noun):
    """A step in the table."""

    step: int
    version: int
    reward: float
    pass_at_1: float
    solve_all: float
    solve_none: float
    response_tokens: float
    masked: int
    launched: int
    accepted_length: float
    tokens_per_sec: float
    seconds: float
    skipped: str


class TrainingView(Noun):
    """A run, its curves, its newest steps and what became of its episodes."""

    run: TrainingRun
    charts: tuple[Chart, ...]
    rows: tuple[StepRow, ...]
    """Newest first."""
    launched: int
    scored: int
    unscorable: int
    masked: tuple[tuple[str, int], ...]
    """Episodes by reason, most frequent first: ``scored + masked + unscorable == launched``."""


Get = Callable[[Record], float | None]


def training_view(run: TrainingRun, records: Sequence[Record], rows: int) -> TrainingView:
    """All of the page; the table keeps the newest ``rows`` steps."""
    masked = sum((Counter(record["masked"]) for record in records), Counter[str]())
    return TrainingView(
        run=run,
        charts=tuple(_charts(records)),
        rows=tuple(_row(record) for record in reversed(records[-rows:])),
        launched=sum(record["launched"] for record in records),
        scored=sum(record["scored"] for record in records),
        unscorable=sum(record["unscorable"] for record in records),
        masked=tuple(masked.most_common()),
    )


def _charts(records: Sequence[Record]) -> list[Chart]:
    def field(name: str) -> Get:
        return lambda record: record.get(name)

    def speed(name: str) -> Get:
        return lambda record: record["tokens_per_sec"][name]

    reward = [("mean of scored episodes", field("reward"))]
    passed = [("pass@1", field("pass_at_1"))]
    groups = [("all solve", field("solve_all")), ("none solves", field("solve_none"))]
    length = [("mean tokens of an episode", field("response_tokens"))]
    lost = [("share of episodes", lambda record: masked_episodes(record) / max(record["launched"], 1))]
    accepted = [("tokens for each verification", field("accepted_length"))]
    speeds = [("rollout", speed("rollout")), ("train", speed("train"))]
    return [
        _chart("Reward", reward, records, count),
        _chart("pass@1", passed, records, percent, top=1.0),
        _chart("Groups in which all or none solve", groups, records, percent, top=1.0),
        _chart("Response length", length, records, count),
        _chart("Masked", lost, records, percent, top=1.0),
        _chart("Accepted length", accepted, records, count),
        _chart("Tokens per second", speeds, records, count),
    ]


def _chart(
    title: str,
    curves: Sequence[tuple[str, Get]],
    records: Sequence[Record],
    form: Callable[[float | None], str],
    top: float | None = None,
) -> Chart:
    series = [[get(record) for record in records] for _, get in curves]
    known = [value for each in series for value in each if value is not None]
    scale = top or max([*known, 0.0]) or 1.0
    lines = [
        Line(label=label, points=polyline(values, scale), last=form(values[-1] if values else None))
        for (label, _), values in zip(curves, series, strict=True)
    ]
    return Chart(title=title, top=form(scale), lines=tuple(lines))


def polyline(values: Sequence[float | None], top: float) -> str:
    """Points of a curve, left to right; what lies below zero is drawn at zero. Of more values than there are units of
    width, neighbours are averaged."""
    bin_size = max(1, -(-len(values) // int(WIDTH)))
    bins = [[v for v in values[start : start + bin_size] if v is not None] for start in range(0, len(values), bin_size)]
    step = WIDTH / max(len(bins) - 1, 1)
    heights = [(place, sum(known) / len(known)) for place, known in enumerate(bins) if known]
    return " ".join(f"{place * step:.1f},{HEIGHT * (1 - min(max(y / top, 0.0), 1.0)):.1f}" for place, y in heights)


def _row(record: Record) -> StepRow:
    names = ("step", "version", "reward", "pass_at_1", "solve_all", "solve_none", "response_tokens", "launched")
    return StepRow(
        **{name: record[name] for name in names},
        masked=masked_episodes(record),
        accepted_length=record["accepted_length"],
        tokens_per_sec=record["tokens_per_sec"]["rollout"],
        seconds=sum(record["seconds"].values()),
        skipped=record["skipped"],
    )
