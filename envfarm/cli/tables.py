"""A run's figures as tables on the terminal."""

from __future__ import annotations

from typing import Any

from .common import print_table


def print_summary(figures: dict[str, Any], *, file: Any = None) -> None:
    """Funnel, environment success, tasks, and whatever replays and rollouts there were."""
    funnel = [
        (
            row["stage"],
            row["in"],
            row["done"],
            row["rejected"],
            row["failed"],
            row["wall_sec"],
            row["cpu_sec"],
            row["bytes"],
        )
        for row in figures["stages"]
    ]
    columns = ("stage", "in", "done", "rejected", "failed", "wall s", "cpu s", "bytes")
    print_table(columns, funnel, title="Funnel", file=file)
    found = figures["environments"]
    rungs = [
        (name, found[name], found["tried"], percent(found[name], found["tried"]), span(found["intervals"][name]))
        for name in ("installs", "collects", "passes")
    ]
    print_table(("environments", "n", "of", "share", "95 %"), rungs, title="\nEnvironment success", file=file)
    losses = [
        (stage, reason, count)
        for stage, reasons in figures["tasks"]["rejected"].items()
        for reason, count in reasons.items()
    ]
    losses += [(entry["stage"], f"{entry['reason']} ({entry['name']})", 1) for entry in figures["packages"]["failed"]]
    if losses:
        print_table(("stage", "lost because", "n"), losses, title="\nLosses", file=file)
    found = figures["tasks"]
    rows = [
        (repo, kinds.get("release", 0) + kinds.get("commit", 0), kinds.get("synth", 0))
        for repo, kinds in found["by_repo"].items()
    ]
    rows.append(("all", found["release_valid"] + found["commit_valid"], found["synth_valid"]))
    print_table(("valid tasks", "history", "synth"), rows, title="\nTasks", file=file)
    _print_replay(figures["replay"], file)
    _print_policies(figures["policies"], file)
    _print_learning(figures, file)


def print_funnel(stages: list[dict[str, Any]], *, file: Any = None) -> None:
    """Items, time and bytes of each stage."""
    keys = ("stage", "in", "done", "rejected", "failed", "wall_sec", "cpu_sec", "bytes")
    columns = [key.replace("_sec", " s") for key in keys]
    print_table(columns, [[row[key] for key in keys] for row in stages], title="Funnel", file=file)


def _print_replay(replay: dict[str, Any], file: Any) -> None:
    if replay["n"]:
        rows = [
            ("gold patch", replay["n"], percent_of(replay["gold_pass_rate"])),
            ("empty patch", replay["empty_n"], percent_of(replay["empty_pass_rate"])),
        ]
        print_table(("replay", "n", "passes"), rows, title="\nReplay", file=file)


def _print_policies(policies: dict[str, Any], file: Any) -> None:
    rows = [
        (name, row["n"], percent_of(row["solve_rate"]), span(row["interval"]), row["masked"], row["unscorable"])
        for name, row in policies.items()
        if not name.startswith("_")
    ]
    if rows:
        columns = ("policy", "scored", "solved", "95 %", "masked", "unscorable")
        print_table(columns, rows, title="\nPolicies", file=file)
        cache = policies["_verdict_cache"]
        print_table(("verdict cache", "hits", "of"), [("", cache["hits"], cache["of"])], file=file)


def _print_learning(figures: dict[str, Any], file: Any) -> None:
    if rl := figures.get("rl"):
        rows = [
            (step, f"{reward:.3f}", f"{length:.2f}")
            for step, (reward, length) in enumerate(zip(rl["rewards"], rl["accepted_length"], strict=True), 1)
        ]
        title = f"\nTraining on {', '.join(rl['trained_on'])}: {rl['scored']} of {rl['launched']} episodes scored"
        print_table(("step", "reward", "accepted length"), rows, title=title, file=file)
    if repair := figures.get("repair"):
        rows = [
            (name, values["episodes"], percent_of(values["pass_at_1"]), span(values["interval"]))
            for name, values in repair.items()
            if isinstance(values, dict)
        ]
        title = f"\nOne valid edit, {repair['tasks']} held-out tasks of {', '.join(repair['packages'])}"
        print_table(("policy", "episodes", "pass@1", "95 %"), rows, title=title, file=file)
    if mtp := figures.get("mtp"):
        rows = [
            (name, f"{values['tokens_per_sec']:.0f}", f"{values['accepted_length']:.2f}")
            for name, values in mtp.items()
        ]
        print_table(("MTP", "tokens/s", "accepted length"), rows, title="\nSpeculation, same prompts", file=file)


def percent(count: int, total: int) -> str:
    """``87.5 %``, or a dash for none."""
    return percent_of(count / total) if total else "-"


def percent_of(share: float | None) -> str:
    """``87.5 %``, or a dash where nothing was measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def span(interval: list[float]) -> str:
    """``[70.0, 94.1]`` in percent."""
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
