"""Kills ``envfarm build`` at seeded failpoints and resumes it, again and again: nothing lost, nothing twice.

    python bench/kill_resume.py --kills 300 [--seed 0] [--minutes 60] [--json]

Each round builds the same small history under a new run name: a process is started with ``--resume``, killed by SIGKILL
at the N-th hit of a failpoint (both drawn from the seed; failpoints stand at every store write, blob, environment and
box start), and started again until the run is done. Every fifth round begins without environments, so that builds
are killed too. Afterwards the round's records must equal those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from toy_history import write_history

from envfarm.store import Store, queries

ARGS = ("--limit", "2", "--synth", "1", "--replays", "1", "--policy", "oracle", "--workers", "1")

MOST_HITS = 4
"""A process dies at most at this hit of the failpoint that was drawn for it. Items that hit some of them more often
(boxes, heartbeats) are ended by a process that another one was drawn for."""


def build(
    home: Path, repo: Path, run: str, failpoints: str = "", log: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One process of a run, to its end or its death."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENVFARM_")}
    environ |= {
        "ENVFARM_HOME": str(home),
        "ENVFARM_BUILD__LEASE_SEC": "1.0",
        # an item may be killed often here; elsewhere one that kills its worker three times is poison
        "ENVFARM_BUILD__MAX_ATTEMPTS": "1000",
    }
    if failpoints:
        environ["ENVFARM_FAILPOINTS"] = failpoints
    if log:
        environ["ENVFARM_FAILPOINT_LOG"] = str(log)
    command = [
        sys.executable,
        "-m",
        "envfarm.cli.main",
        "build",
        f"git:{repo}",
        "--run",
        run,
        "--resume",
        *ARGS,
        "--json",
    ]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600)


def outcome(home: Path, run: str) -> dict[str, Any]:
    """What a finished run recorded, without times."""
    with Store.open(f"sqlite:///{home / 'envfarm.db'}") as store:
        events = queries.events(store, run, limit=100_000)
        tasks = queries.tasks(store, run, limit=10_000)
        rollouts = queries.rollouts(store, run, limit=10_000)
        return {
            "events": sorted((event.stage, event.key, str(event.outcome), event.reason) for event in events),
            "tasks": sorted((row.task.id, row.state, row.task.tree, row.task.gold_patch) for row in tasks),
            "rollouts": sorted((r.task_id, r.policy, str(r.verdict.outcome) if r.verdict else "") for r in rollouts),
            "redone": sum(event.attempt - 1 for event in events),
            "open": sum(
                count
                for states in store.queue.counts(run).values()
                for state, count in states.items()
                if state not in ("done", "quarantined")
            ),
        }


def leftovers(home: Path) -> list[str]:
    """Boxes and half-made things that a finished run has left."""
    found = [str(path.relative_to(home)) for path in (home / "boxes").glob("*")] if (home / "boxes").exists() else []
    return found + [str(path.relative_to(home)) for path in home.glob("envs/*.tmp*")]


def differences(expected: list[tuple[Any, ...]], found: list[tuple[Any, ...]]) -> list[str]:
    """Rows that only one of the two has."""
    missing = [f"- {row}" for row in expected if row not in found]
    return missing + [f"+ {row}" for row in found if row not in expected]


def main() -> int:
    """Run the rounds and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no round after this time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="envfarm-kill-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        figures = measure(folder, options.kills, random.Random(options.seed), options.minutes, quiet=options.json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    bad = figures["duplicated"] or figures["lost"] or figures["different_rounds"] or figures["left_over"]
    return 1 if bad or figures["lost_units_per_kill_max"] > 1 else 0


def measure(folder: Path, kills: int, rng: random.Random, minutes: float, *, quiet: bool) -> dict[str, Any]:
    """Rounds until ``kills`` processes were killed, or the time is over."""
    started = time.monotonic()
    home, repo = folder / "home", write_history(folder / "money")
    log = folder / "hits"
    first = build(home, repo, "whole", log=log)
    if first.returncode:
        raise SystemExit(f"the run without kills failed:\n{first.stderr}")
    expected, hits = outcome(home, "whole"), log.read_text().split()
    if not expected["tasks"]:
        raise SystemExit(f"the run without kills made no task:\n{first.stderr}\n{expected}")
    kinds = sorted(set(hits))
    done, rounds, worst = 0, 0, 0.0
    lost = duplicated = different = 0
    struck: Counter[str] = Counter()
    redone_total = 0
    while done < kills and time.monotonic() - started < 60 * minutes:
        rounds += 1
        run = f"round{rounds}"
        if rounds % 5 == 0:
            shutil.rmtree(home / "envs")
        killed_here = 0
        while True:
            log.unlink(missing_ok=True)
            kind = rng.choice(kinds)
            deadly = rng.randint(1, min(MOST_HITS, hits.count(kind)))
            process = build(home, repo, run, f"{kind}:{deadly}", log)
            if process.returncode != -9:
                break
            struck[log.read_text().split()[-1]] += 1
            done, killed_here = done + 1, killed_here + 1
        if process.returncode:
            raise SystemExit(f"{run} ended with {process.returncode}:\n{process.stderr}")
        found = outcome(home, run)
        names = [(stage, key) for stage, key, *_ in found["events"]]
        duplicated += len(names) - len(set(names))
        lost += len({(s, k) for s, k, *_ in expected["events"]} - set(names)) + found["open"]
        apart = {part: differences(expected[part], found[part]) for part in ("events", "tasks", "rollouts")}
        if any(apart.values()):
            different += 1
            print(f"{run} differs from the run without kills: {apart}", file=sys.stderr, flush=True)
        worst = max(worst, found["redone"] / killed_here if killed_here else 0.0)
        redone_total += found["redone"]
        if not quiet:
            print(f"{run}: {killed_here} kills, {found['redone']} items begun again", file=sys.stderr, flush=True)
    return {
        "kills": done,
        "rounds": rounds,
        "failpoint_hits_of_a_whole_run": len(hits),
        "kinds_of_failpoint_hit": len(set(hits)),
        "struck": dict(struck.most_common()),
        "items_begun_again": redone_total,
        "lost_units_per_kill_max": worst,
        "lost": lost,
        "duplicated": duplicated,
        "different_rounds": different,
        "left_over": leftovers(home),
        "wall_sec": round(time.monotonic() - started, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
