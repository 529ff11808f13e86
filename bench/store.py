"""Store at the size of a farm: inserts, leases and pages, on SQLite and on PostgreSQL.

Rows are generated, by rule: a candidate is about 1 kB of JSON, a task carries 50 test ids, repositories number one
per 1,000 candidates. PostgreSQL runs with its own defaults (fsync on) from Debian's binaries, in a temporary folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from envfarm.core.base import digest_bytes
from envfarm.core.ports import StageOutcome
from envfarm.core.source import Candidate, FileChange, Issue, IssueKind
from envfarm.core.task import Statement, Task, TaskKind
from envfarm.core.work import StageResult, Work
from envfarm.store import Store, queries
from envfarm.store.bulk import batches, upsert
from envfarm.store.tables import events

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
REASONS = ("", "", "", "no_tests", "no_statement", "too_many_files")
BARS = {
    "candidates_per_sec": 20_000.0, "lease_p99_ms": 20.0, "funnel_ms": 200.0, "environment_success_ms": 200.0,
    "events_ms": 200.0, "events_of_stage_ms": 200.0, "tasks_ms": 200.0,
}  # fmt: skip


def candidates(count: int) -> Iterator[Candidate]:
    """Generated candidates, 1,000 to a repository."""
    body = "The loader keeps the old template after the file has changed on disk. " * 6
    for n in range(count):
        repo = f"project{n // 1000}"
        yield Candidate(
            id=f"{repo}__{repo}-{n}",
            repo=f"pypi:{repo}",
            repo_name=repo,
            base_commit=f"{n:040x}",
            fix_commit=f"{n + 1:040x}",
            created_at=WHEN,
            version="1.2.3",
            issue=Issue(kind=IssueKind.changelog, title=f"Fix case {n}", body=body, reference="CHANGES.rst#1.2.3"),
            changes=(
                FileChange(path=f"src/{repo}/loaders.py", added=12, deleted=3),
                FileChange(path="tests/test_loaders.py", added=30),
            ),
            source_files=(f"src/{repo}/loaders.py",),
            test_files=("tests/test_loaders.py",),
        )


def tasks(count: int) -> Iterator[Task]:
    """Generated tasks, 10 to a repository."""
    passing = tuple(f"tests/test_loaders.py::TestLoaders::test_case[{n}]" for n in range(50))
    for n in range(count):
        repo = f"project{n // 10}"
        blob = digest_bytes(str(n).encode())
        yield Task(
            id=f"{repo}__{repo}-{n}",
            kind=TaskKind.release,
            repo=f"pypi:{repo}",
            repo_name=repo,
            base_commit=f"{n:040x}",
            created_at=WHEN,
            statement=Statement(text=f"Case {n}: the loader keeps the old template.", source=IssueKind.changelog),
            tree=blob,
            tests=blob,
            gold_patch=blob,
            source_paths=("src/",),
            test_files=("tests/test_loaders.py",),
            fail_to_pass=passing[:2],
            pass_to_pass=passing,
        )


def works(count: int) -> Iterator[Work]:
    """One item of stage ``draft`` for each candidate."""
    for n in range(count):
        repo = f"project{n // 1000}"
        yield Work(run="bench", stage="draft", key=f"{repo}__{repo}-{n}", source="pypi", repo=repo)


def event_rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Events of items that never were, to give the event pages a full table."""
    for n in range(count):
        repo, reason = f"project{n // 1000}", REASONS[n % len(REASONS)]
        outcome = "rejected" if reason else "done"
        yield (
            -1 - n, "bench", "filter", f"{repo}-{n}", "pypi", repo, outcome, reason, "", "", "", 1, "w", 0.1, 0.1, 0,
            1.8e9 + n,
        )  # fmt: skip


def timed(action: Callable[[], Any]) -> float:
    """Seconds that ``action`` took."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def put_all(store: Store, values: Iterable[Any], put: Callable[[Any, list[Any]], Any], size: int) -> float:
    """Commit ``values`` in batches; seconds from noun to commit, without those that generating took."""
    seconds = 0.0
    for batch in batches(values, size):
        started = time.perf_counter()
        with store.begin() as tx:
            put(tx, batch)
        seconds += time.perf_counter() - started
    return seconds


def drain(store: Store, threads: int, items: int) -> dict[str, float]:
    """``threads`` workers that lease and finish ``items`` items between them."""
    leases: list[float] = []
    finishes: list[float] = []

    def work(name: str) -> None:
        for n in range(items // threads):
            started = time.perf_counter()
            lease = store.queue.lease("bench", ["validate", "build", "draft"], name, 60)
            leases.append(time.perf_counter() - started)
            assert lease is not None
            reason = REASONS[n % len(REASONS)]
            outcome = StageOutcome.rejected if reason else StageOutcome.done
            started = time.perf_counter()
            store.queue.finish(lease, StageResult(outcome=outcome, reason=reason, wall_sec=0.1))
            finishes.append(time.perf_counter() - started)

    workers = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(threads)]
    wall = timed(lambda: ([w.start() for w in workers], [w.join() for w in workers]))
    quantiles = statistics.quantiles(leases, n=100)
    return {
        "lease_p50_ms": quantiles[49] * 1000,
        "lease_p99_ms": quantiles[98] * 1000,
        "lease_max_ms": max(leases) * 1000,
        "finish_p99_ms": statistics.quantiles(finishes, n=100)[98] * 1000,
        "items_per_sec": len(leases) / wall,
    }


def page_ms(action: Callable[[], Any]) -> float:
    """Median of five calls after a first, in milliseconds."""
    action()
    return statistics.median(timed(action) for _ in range(5)) * 1000


def measure(store: Store, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Every figure for one database."""
    n, count = args.candidates, args.tasks
    figures: dict[str, float] = {}
    say = lambda text: print(f"  {text}", file=sys.stderr, flush=True)  # noqa: E731
    say(f"{n:,} candidates")
    put_candidates = lambda tx, batch: tx.put_candidates("bench", batch)  # noqa: E731
    figures["candidates_per_sec"] = n / put_all(store, candidates(n), put_candidates, 10_000)
    say(f"{count:,} tasks")
    put_tasks = lambda tx, batch: tx.put_tasks("bench", [(task, "valid") for task in batch])  # noqa: E731
    figures["tasks_per_sec"] = count / put_all(store, tasks(count), put_tasks, 1000)
    say(f"{n:,} items queued")
    seconds = 0.0
    for batch in batches(works(n), 100_000):
        seconds += timed(lambda batch=batch: store.queue.enqueue(batch))
    figures["enqueue_per_sec"] = n / seconds
    say(f"{args.leases:,} items leased and finished by {args.threads} threads")
    figures |= drain(store, args.threads, args.leases)
    say(f"{n:,} events")
    columns = [column.name for column in events.columns if column.name != "id"]
    put_all(
        store, event_rows(n), lambda tx, batch: upsert(tx.connection, events, columns, batch, key=["item_id"]), 10_000
    )
    say("pages")
    figures["funnel_ms"] = page_ms(lambda: queries.funnel(store, "bench"))
    figures["environment_success_ms"] = page_ms(
        lambda: queries.environment_success(store, "bench", by="repo", stage="draft")
    )
    figures["counts_ms"] = page_ms(lambda: store.queue.counts("bench"))
    figures["events_ms"] = page_ms(lambda: queries.events(store, "bench", reason="no_tests"))
    figures["events_of_stage_ms"] = page_ms(lambda: queries.events(store, "bench", stage="filter"))
    figures["tasks_ms"] = page_ms(lambda: queries.tasks(store, "bench", state="valid", limit=100, offset=1000))
    figures["disk_mb"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return figures


def local_postgres() -> Any:
    """The server class of the contract tests."""
    file = Path(__file__).parent.parent / "tests/contract/postgres.py"
    spec = importlib.util.spec_from_file_location("bench_postgres", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LocalPostgres(fsync=True, options={"shared_buffers": "512MB", "max_wal_size": "2GB"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--leases", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    for name in ("sqlite", "postgres") if args.database == "both" else (args.database,):
        print(name, file=sys.stderr)
        folder = Path(tempfile.mkdtemp(prefix="envfarm-bench-"))
        server = None
        try:
            if name == "postgres":
                server = local_postgres()
            url = server.fresh() if server else f"sqlite:///{folder}/bench.db"
            with Store.open(url) as store:
                results[name] = measure(store, args, server.folder if server else folder)
        finally:
            if server:
                server.close()
            shutil.rmtree(folder)
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        for name, figures in results.items():
            for figure, value in figures.items():
                bar = f"   bar {BARS[figure]:,.0f}" if figure in BARS else ""
                print(f"{name:9} {figure:24} {value:14,.1f}{bar}")
    within = [
        value >= BARS[figure] if figure.endswith("_per_sec") else value <= BARS[figure]
        for figures in results.values()
        for figure, value in figures.items()
        if figure in BARS
    ]
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
