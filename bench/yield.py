"""Yield on real clones: valid tasks over all candidates after the static filter, build failures counted.

    python bench/yield.py CLONE... [--limit 400] [--home DIR] [--workers 2] [--json]

``--limit`` bounds the revisions looked at in each clone, newest first. Every candidate that the published filter lets
through counts in the denominator, whatever becomes of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from envfarm.core.config import load_config
from envfarm.core.ids import repository_name
from envfarm.core.ports import StageOutcome
from envfarm.core.stats import wilson
from envfarm.farm.progress import Progress
from envfarm.store import queries
from envfarm.wiring.app import App, open_app
from envfarm.wiring.plan import RunPlan
from envfarm.wiring.run import begin, work_off
from envfarm.wiring.rungs import STAGES

HISTORY = ("filter", "draft", "build", "validate")


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp(prefix="envfarm-yield-", dir="/var/tmp"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    figures = asyncio.run(measure(options, home))
    if options.json:
        print(json.dumps(figures, indent=2))
        return 0
    for name, row in figures["clones"].items():
        low, high = row["interval"]
        print(f"{name}: {row['valid']} valid of {row['after_filter']} after the filter ({row['candidates']} revisions)")
        print(f"  yield {row['yield']:.1%}, 95 % [{low:.1%}, {high:.1%}]; lost: {row['lost']}")
    print(f"all: {figures['valid']} of {figures['after_filter']} = {figures['yield']:.1%}, {figures['wall_sec']:.0f} s")
    return 0


async def measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """One run over all clones."""
    started = time.monotonic()
    config = load_config(flags={"home": str(home), "build.workers": options.workers, "build.limit": options.limit})
    refs = tuple(f"git:{clone.resolve()}" for clone in options.clones)
    plan = RunPlan(repositories=refs, build=config.build)
    run = f"yield-{int(time.time())}"
    async with open_app(config) as app:
        plan = begin(app.store, run, plan, resume=False)
        progress = Progress(STAGES)
        ticker = asyncio.create_task(tick(progress))
        await work_off(app, run, plan, on_start=progress.start, on_event=progress.event)
        ticker.cancel()
        clones = {repository_name(ref): figures_of(app, run, repository_name(ref)) for ref in refs}
    total = Counter({key: sum(row[key] for row in clones.values()) for key in ("valid", "after_filter", "candidates")})
    share = total["valid"] / total["after_filter"] if total["after_filter"] else 0.0
    wall_sec = time.monotonic() - started
    return {"clones": clones, **total, "yield": share, "wall_sec": wall_sec, "run": run, "home": str(home)}


def figures_of(app: App, run: str, repo: str) -> dict[str, Any]:
    """One clone's funnel."""
    rows = [row for row in queries.funnel(app.store, run, repo) if row.stage in HISTORY]
    candidates = sum(row.n for row in rows if row.stage == "filter")
    accepted = sum(row.n for row in rows if row.stage == "filter" and row.outcome is StageOutcome.done)
    valid = sum(row.n for row in rows if row.stage == "validate" and row.outcome is StageOutcome.done)
    lost: Counter[str] = Counter()
    for row in rows:
        if row.stage != "filter" and row.outcome is not StageOutcome.done:
            lost[f"{row.stage}: {row.reason}"] += row.n
    return {
        "candidates": candidates,
        "after_filter": accepted,
        "valid": valid,
        "yield": valid / accepted if accepted else 0.0,
        "interval": list(wilson(valid, accepted)),
        "lost": dict(lost.most_common()),
    }


async def tick(progress: Progress) -> None:
    """A line of progress now and then."""
    while True:
        await asyncio.sleep(15)
        print(progress.line(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
