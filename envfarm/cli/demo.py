"""``envfarm demo``: the whole chain on real packages of the registry, measured as it runs."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from envfarm.core.config import Config
from envfarm.core.durable import write_file
from envfarm.farm.progress import Progress
from envfarm.wiring.demo import FULL, PACKAGES, demo_plan
from envfarm.wiring.plan import RunPlan

from .common import ConfigFile, Home, Json, Workers, configuration, note, print_json, run_async
from .progress import shown
from .tables import print_funnel, print_summary

if TYPE_CHECKING:
    from envfarm.wiring.app import App

app = typer.Typer(add_completion=False)

RUN = "demo"
FIRST_TABLE_SEC = 60.0


@app.command()
def demo(
    full: Annotated[
        bool, typer.Option("--full", help="The large set: 200 synth tasks and more over 16 packages.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a demo that was cut off.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    output: Annotated[Path, typer.Option(help="Where report.html and report.json go.")] = Path("runs/demo"),
    workers: Workers = None,
    config: ConfigFile = None,
    home: Home = None,
    json: Json = False,
) -> int:
    """Mine, build, validate, replay and play tasks of real packages; report what was measured in this run.

    Starts from nothing each time (downloads are kept), unless --resume is given.
    """
    resolved = configuration(config, home, build__workers=workers)
    resolved = resolved.model_copy(update={"home": str(resolved.home_path / "demo"), "database": "", "blobs": ""})
    if not resume:
        _start_afresh(resolved.home_path)
    plan = demo_plan(FULL if full else PACKAGES, resolved.build, seed=seed)
    figures = run_async(_run(resolved, plan, resume=resume))
    _write_report(figures, output)
    if json:
        print_json(figures)
    else:
        print_summary(figures)
    note(f"\n{figures['wall_sec']:.0f} s. Report: {output / 'report.html'}, {output / 'report.json'}")
    note(f"Look closer with: envfarm serve --home {resolved.home_path}")
    return 0 if figures["tasks"]["synth_valid"] and figures["replay"]["gold_pass_rate"] == 1.0 else 1


async def _run(config: Config, plan: RunPlan, *, resume: bool) -> dict[str, Any]:
    from envfarm.wiring.app import open_app
    from envfarm.wiring.run import begin, work_off
    from envfarm.wiring.rungs import STAGES
    from envfarm.wiring.summary import stages, summarise

    started = time.monotonic()
    async with open_app(config) as built:
        plan = begin(built.store, RUN, plan, resume=resume)
        progress = Progress(STAGES)
        async with shown(progress), _early_table(lambda: stages(built.store, RUN)):
            await work_off(built, RUN, plan, on_start=progress.start, on_event=progress.event)
        figures = summarise(built.store, RUN, plan) | await _learn(built, seed=plan.seed)
        return {"wall_sec": time.monotonic() - started} | figures


async def _learn(app: App, *, seed: int) -> dict[str, Any]:
    """A few steps of training on the tasks just built; nothing, and a word of it, where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        note("\nThe learning part is left out: install envfarm[rl] for it (make setup-rl).")
        return {}
    from envfarm.wiring.repair.demo import learn

    note("\nTraining: three steps on verdicts of real boxes.")
    return await learn(app, RUN, seed=seed)


@contextlib.asynccontextmanager
async def _early_table(rows: Any) -> AsyncIterator[None]:
    """A first table on stderr after a minute, and another every two minutes."""

    async def tell() -> None:
        pause = FIRST_TABLE_SEC
        while True:
            await asyncio.sleep(pause)
            print_funnel(await asyncio.to_thread(rows), file=sys.stderr)
            pause = 120.0

    task = asyncio.create_task(tell())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _start_afresh(home: Path) -> None:
    """Remove what an earlier demo built, so that this one measures its own work; downloads stay."""
    if home.exists():
        for entry in home.iterdir():
            if entry.name != "cache":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _write_report(figures: dict[str, Any], output: Path) -> None:
    from envfarm.dashboard.report import render_report

    output.mkdir(parents=True, exist_ok=True)
    files = {
        "report.json": orjson.dumps(figures, option=orjson.OPT_INDENT_2),
        "report.html": render_report(figures).encode(),
    }
    for name, data in files.items():
        write_file(output / name, data)
