"""A run in figures: what the tables, the report and ``--json`` say. Every figure is read from the run's own records."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from envfarm.core.ids import repository_name
from envfarm.core.ports import StageOutcome
from envfarm.core.stats import wilson
from envfarm.core.task import TaskKind
from envfarm.core.verdict import Outcome
from envfarm.store import Store, queries

from .plan import RunPlan
from .rungs import STAGES, rungs


def summarise(store: Store, run: str, plan: RunPlan) -> dict[str, Any]:
    """The figures of a run, JSON values only."""
    return {
        "run": run,
        "stages": stages(store, run),
        "packages": packages(store, run, plan),
        "environments": environments(store, run),
        "tasks": tasks(store, run),
        "replay": replay(store, run),
        "policies": policies(store, run),
    }


def stages(store: Store, run: str) -> list[dict[str, Any]]:
    """The funnel: one row for each stage that saw an item."""
    rows: dict[str, dict[str, Any]] = {}
    for row in queries.funnel(store, run):
        stage = rows.setdefault(
            row.stage,
            {
                "stage": row.stage,
                "in": 0,
                "done": 0,
                "rejected": 0,
                "failed": 0,
                "wall_sec": 0.0,
                "cpu_sec": 0.0,
                "bytes": 0,
            },
        )
        stage["in"] += row.n
        stage[str(row.outcome)] += row.n
        stage["wall_sec"] += row.wall_sec
        stage["cpu_sec"] += row.cpu_sec
        stage["bytes"] += row.bytes_written
    return [rows[name] for name in STAGES if name in rows]


def packages(store: Store, run: str, plan: RunPlan) -> dict[str, Any]:
    """Repositories tried and mined, and those that gave nothing, with the reason."""
    failed = [
        {"name": event.repo, "stage": event.stage, "reason": event.reason, "detail": event.detail[:300]}
        for stage in ("mine", "base")
        for event in queries.events(store, run, stage=stage, limit=10_000)
        if event.outcome is not StageOutcome.done
    ]
    tried = sorted({repository_name(ref) for ref in plan.repositories})
    lost = {entry["name"] for entry in failed}
    return {"tried": len(tried), "mined": sum(name not in lost for name in tried), "failed": failed}


def environments(store: Store, run: str) -> dict[str, Any]:
    """The three rungs, over the newest revision of every repository tried."""
    base = [row for row in queries.funnel(store, run) if row.stage == "base"]
    found = dict(zip(("installs", "collects", "passes"), rungs(base), strict=True))
    return {
        "tried": found["installs"].n,
        **{name: rung.k for name, rung in found.items()},
        "intervals": {name: [rung.low, rung.high] for name, rung in found.items()},
        "built": len(queries.environments(store, run)),
        "rule": "newest revision of each repository; passes = at least 85 % of the collected tests pass at base",
    }  # fmt: skip


def tasks(store: Store, run: str) -> dict[str, Any]:
    """Candidates, why they were lost, and what is valid, by kind, repository and operator."""
    rejected: dict[str, Counter[str]] = defaultdict(Counter)
    candidates = 0
    for row in queries.funnel(store, run):
        if row.stage == "filter":
            candidates += row.n
        if row.stage in ("filter", "draft", "build", "mutate", "validate") and row.outcome is not StageOutcome.done:
            rejected[row.stage][row.reason] += row.n
    published = [row.task for row in queries.tasks(store, run, state="published", limit=1_000_000)]
    by_kind = Counter(str(task.kind) for task in published)
    by_repo: dict[str, Counter[str]] = defaultdict(Counter)
    for task in published:
        by_repo[task.repo_name][str(task.kind)] += 1
    passed_filter = sum(
        row.n for row in queries.funnel(store, run) if row.stage == "filter" and row.outcome is StageOutcome.done
    )
    real = sum(count for kind, count in by_kind.items() if kind != TaskKind.synth)
    return {
        "candidates": candidates,
        "after_filter": passed_filter,
        "rejected": {stage: dict(reasons.most_common()) for stage, reasons in rejected.items()},
        "release_valid": by_kind[TaskKind.release],
        "commit_valid": by_kind[TaskKind.commit],
        "synth_valid": by_kind[TaskKind.synth],
        "yield": real / passed_filter if passed_filter else None,
        "yield_interval": list(wilson(real, passed_filter)),
        "by_repo": {repo: dict(kinds) for repo, kinds in sorted(by_repo.items())},
        "by_operator": dict(Counter(task.mutation.operator for task in published if task.mutation).most_common()),
    }


def replay(store: Store, run: str) -> dict[str, Any]:
    """Independent passes over every published task: gold must pass, empty must not."""
    counts: dict[str, Counter[StageOutcome]] = defaultdict(Counter)
    for row in queries.funnel(store, run):
        if row.stage.startswith("replay_"):
            counts[row.stage][row.outcome] += row.n
    gold, empty = counts["replay_gold"], counts["replay_empty"]
    return {
        "n": gold.total(),
        "gold_pass_rate": gold[StageOutcome.done] / gold.total() if gold else None,
        "empty_n": empty.total(),
        "empty_pass_rate": empty[StageOutcome.rejected] / empty.total() if empty else None,
        "errors": gold[StageOutcome.failed] + empty[StageOutcome.failed],
    }


def policies(store: Store, run: str) -> dict[str, Any]:
    """Solve rate of each policy with its 95 % interval; ``scored + masked + unscorable = launched``."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    hits = 0
    for rollout in queries.rollouts(store, run, limit=1_000_000):
        verdict = rollout.verdict
        counts[rollout.policy][str(verdict.outcome) if verdict else "masked"] += 1
        hits += bool(verdict and verdict.cached)
    table: dict[str, Any] = {}
    for policy, outcomes in sorted(counts.items()):
        scored = outcomes.total() - outcomes["masked"] - outcomes[str(Outcome.unscorable)]
        solved = outcomes[str(Outcome.passed)]
        table[policy] = {
            "launched": outcomes.total(),
            "n": scored,
            "masked": outcomes["masked"],
            "unscorable": outcomes[str(Outcome.unscorable)],
            "tampered": outcomes[str(Outcome.tampered)],
            "solve_rate": solved / scored if scored else None,
            "interval": list(wilson(solved, scored)),
        }
    total = sum(outcomes.total() for outcomes in counts.values())
    return table | ({"_verdict_cache": {"hits": hits, "of": total}} if total else {})
