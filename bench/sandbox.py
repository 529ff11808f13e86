"""Cost of local boxes: start + true + stop, one after the other and 16 at once, and what a killed owner leaves.

    .venv/bin/python bench/sandbox.py [--serial 200] [--parallel 16] [--rounds 10] [--json]

On a machine that is busy with other things, `chrt -f 10 .venv/bin/python bench/sandbox.py --no-cgroups` shows what
the same costs undisturbed (a real-time task may not join an ordinary cpu cgroup; cgroups add about 1 ms).

Bars: serial p50 <= 30 ms and p95 <= 60 ms; no error in parallel; nothing left 5 s after kill -9 of the owner.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from envfarm.core.box import BoxSpec, ExecRequest
from envfarm.core.config import LocalProviderConfig
from envfarm.core.errors import EnvfarmError
from envfarm.sandbox.local import LocalProvider

P50_MS, P95_MS, LEFT_SEC = 30.0, 60.0, 5.0
TRUE = ExecRequest(argv=("true",), cwd="/")

OWNER = """
import asyncio, sys
from pathlib import Path
from envfarm.core.box import BoxSpec, ExecRequest
from envfarm.sandbox.local import LocalProvider

async def main():
    async with LocalProvider(Path(sys.argv[1])) as provider:
        boxes = [await provider.acquire(BoxSpec()) for _ in range(8)]
        script = "trap '' TERM; setsid sh -c 'while :; do :; done' & nohup sleep 900 & wait"
        running = [asyncio.create_task(b.exec(ExecRequest(argv=("sh", "-c", script)))) for b in boxes]
        for box in boxes:
            await box.exec(ExecRequest(argv=("true",)))
        print("ready", flush=True)
        await asyncio.gather(*running)

asyncio.run(main())
"""


async def life(provider: LocalProvider) -> tuple[float, float, float]:
    """Seconds of acquire, exec and release."""
    begin = time.perf_counter()
    box = await provider.acquire(BoxSpec())
    started = time.perf_counter()
    try:
        result = await box.exec(TRUE)
        assert result.ok, result
        ran = time.perf_counter()
    finally:
        await provider.release(box)
    return started - begin, ran - started, time.perf_counter() - ran


def cpu_sec() -> float:
    """CPU time of this process and of everything it has waited for: what a busy machine does not change much."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def quantile(values: list[float], share: float) -> float:
    """Milliseconds below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


async def measure(
    home: Path, config: LocalProviderConfig, serial: int, parallel: int, rounds: int
) -> list[dict[str, object]]:
    """Rows of the table for the two loads."""
    rows: list[dict[str, object]] = []
    async with LocalProvider(home, config) as provider:
        for _ in range(3):
            await life(provider)  # programs come into the page cache
        cpu_before = cpu_sec()
        parts = [await life(provider) for _ in range(serial)]
        cpu_ms = (cpu_sec() - cpu_before) / serial * 1000
        for name, values in (
            ("serial: acquire", [part[0] for part in parts]),
            ("serial: exec true", [part[1] for part in parts]),
            ("serial: release", [part[2] for part in parts]),
            ("serial: all", [sum(part) for part in parts]),
        ):
            rows.append({"what": name, "n": serial, "p50_ms": quantile(values, 0.5), "p95_ms": quantile(values, 0.95)})
        rows[-1]["cpu_ms"] = cpu_ms
        totals: list[float] = []
        errors = 0
        begin = time.perf_counter()
        for _ in range(rounds):
            results = await asyncio.gather(*(life(provider) for _ in range(parallel)), return_exceptions=True)
            for result in results:
                if isinstance(result, EnvfarmError):
                    errors += 1
                elif isinstance(result, BaseException):
                    raise result
                else:
                    totals.append(sum(result))
        rate = len(totals) / (time.perf_counter() - begin)
        rows.append(
            {"what": f"{parallel} at once: all", "n": parallel * rounds, "p50_ms": quantile(totals, 0.5),
             "p95_ms": quantile(totals, 0.95), "per_sec": rate, "errors": errors}
        )  # fmt: skip
    return rows


async def cut_off(home: Path, config: LocalProviderConfig, starts: int) -> dict[str, object]:
    """Cancel starts within their first 20 ms, four at a time; how many boxes are listed afterwards."""

    async def one(provider: LocalProvider, delay_sec: float) -> None:
        task = asyncio.create_task(provider.acquire(BoxSpec()))
        await asyncio.sleep(delay_sec)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await provider.release(await task)

    rng = random.Random(0)
    async with LocalProvider(home, config) as provider:
        for _ in range(starts // 4):
            await asyncio.gather(*(one(provider, rng.random() * 0.02) for _ in range(4)))
        return {"starts": starts, "left": len(await provider.list())}


def kill_owner(home: Path) -> dict[str, object]:
    """SIGKILL an owner of 8 busy boxes; what is left after each moment, and when there was nothing."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
    names = [path.name for path in (home / "boxes").iterdir()]
    pids = [pid for pid in all_pids() if any(name in read(f"/proc/{pid}/cgroup") for name in names)]
    owner.kill()
    owner.wait()
    begin = time.perf_counter()
    while (left := leftovers(home, names, pids))["total"] and time.perf_counter() - begin < LEFT_SEC:
        time.sleep(0.02)
    owner.stdout.close()
    return {"boxes": len(names), "processes_before": len(pids), "clean_after_sec": time.perf_counter() - begin, **left}


def leftovers(home: Path, names: list[str], pids: list[int]) -> dict[str, int]:
    """Counts of processes, cgroups, mounts and folders that belong to the boxes, and of helpers on ``home``."""
    alive = {pid for pid in pids if os.path.exists(f"/proc/{pid}")}  # noqa: PTH110
    alive |= {pid for pid in all_pids() if str(home) in read(f"/proc/{pid}/cmdline") and pid != os.getpid()}
    # os.walk, because folders disappear while it looks.
    cgroups = sum(len(set(folders) & set(names)) for _, folders, _ in os.walk("/sys/fs/cgroup"))
    mounts = read("/proc/mounts").count(str(home))
    boxes = len(list((home / "boxes").iterdir()))
    counts = {"processes": len(alive), "cgroups": cgroups, "mounts": mounts, "folders": boxes}
    return {**counts, "total": sum(counts.values())}


def all_pids() -> list[int]:
    """Every process of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def read(path: str) -> str:
    """A file of /proc, or nothing where the process is gone."""
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""


def cell(value: object) -> str:
    """A number for the table."""
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def main() -> int:
    """Measure, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--serial", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-cgroups", action="store_true", help="Without the kill test, which counts by cgroup.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="envfarm-bench-"))
    home.chmod(0o755)
    config = LocalProviderConfig(use_cgroups=not options.no_cgroups)
    load = os.getloadavg()[0]
    try:
        rows = asyncio.run(measure(home, config, options.serial, options.parallel, options.rounds))
        cut = asyncio.run(cut_off(home, config, options.serial * 2))
        killed = kill_owner(home) if config.use_cgroups else None
    finally:
        shutil.rmtree(home)
    total = next(row for row in rows if row["what"] == "serial: all")
    bars = {
        "serial_p50": total["p50_ms"] <= P50_MS,  # type: ignore[operator]
        "serial_p95": total["p95_ms"] <= P95_MS,  # type: ignore[operator]
        "parallel_errors": rows[-1]["errors"] == 0,
        "nothing_left": (killed is None or killed["total"] == 0) and cut["left"] == 0,
    }
    if options.json:
        print(
            json.dumps(
                {"load_before": load, "rows": rows, "cut_off": cut, "killed_owner": killed, "bars": bars}, indent=2
            )
        )
    else:
        print(f"load before: {load:.1f} on {os.cpu_count()} cores")
        columns = ("n", "p50_ms", "p95_ms", "cpu_ms", "per_sec", "errors")
        print(f"{'what':<20}" + "".join(f"{column:>9}" for column in columns))
        for row in rows:
            print(f"{row['what']:<20}" + "".join(f"{cell(row.get(column)):>9}" for column in columns))
        print(f"{cut['starts']} starts cut off within 20 ms: {cut['left']} boxes left")
        if killed is not None:
            print(
                f"owner of {killed['boxes']} boxes ({killed['processes_before']} processes) killed: clean after "
                f"{killed['clean_after_sec']:.2f} s, left {killed['total']}"
            )
        print("bars: " + ", ".join(f"{name} {'ok' if held else 'MISSED'}" for name, held in bars.items()))
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
