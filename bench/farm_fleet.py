"""How fast is a farm's controller, on a real control plane with simulated nodes? Beside it, in the same run, a bare
client-go loader that writes protobuf and does nothing else.

    sudo python -m bench.farm_fleet [--burst 5000] [--rate 100 --seconds 300] [--claims 200] [--held 20000]

1. Burst: so many boxes asked for at once; seconds until all are Ready: through the scheduler, placed by us, the loader.
2. Open loop: boxes leave at a rate and are made anew; from asking to Ready.
3. Warm claims at a rate, and a burst of 3,600 on 3,700: until the lease is durable. Boxes here run nothing, so the
   first command is not part of it.
4. With ``--held``: so many boxes held while one more open loop runs.

CPU is of all processes of a kind, in milliseconds for each box's life; everything shares this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envfarm.core.process import children_of
from envfarm.farm.pods.controller import Farm
from envfarm.farm.pods.pool import Phase
from envfarm.farm.pods.spec import FarmSpec, Placing, PoolSpec
from envfarm.kube import manifests
from envfarm.kube.client import KubeClient
from envfarm.kube.cluster import load_cluster
from envfarm.kube.manifests import BoxShape
from envfarm.store import Store
from envfarm.testbed import bed as beds
from envfarm.testbed import programs
from envfarm.testbed.bed import Bed
from envfarm.testbed.fleet import TAINT
from envfarm.testbed.programs import Module, Shape

LOADER = Module("loader", {"loader": "."})
_TICKS = os.sysconf("SC_CLK_TCK")
SHAPE = BoxShape(
    image="envfarm.test/box:1", agent_image="envfarm.test/agent:1", cpus=0.1, memory_mb=64,
    tolerations=({"key": TAINT, "operator": "Exists"},),
)  # fmt: skip


def cpu_sec(bed: Bed) -> dict[str, float]:
    """Seconds of CPU that each program of the bed, and this process, have used."""
    found: dict[str, float] = {}
    for pid in children_of(bed.process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)
        name = Path(f"/proc/{pid}/exe").readlink().name
        parts = fields[1].split()
        found[name] = found.get(name, 0.0) + (int(parts[11]) + int(parts[12])) / _TICKS
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {**found, "controller": used.ru_utime + used.ru_stime}


@contextmanager
def counted(bed: Bed, client: KubeClient, figures: dict[str, Any]) -> Iterator[None]:
    """Adds to ``figures`` what was used, for each box and in all."""
    before, calls, start = cpu_sec(bed), dict(client.calls), time.monotonic()
    yield
    boxes, seconds = figures["boxes"], time.monotonic() - start
    used = {name: after - before.get(name, 0.0) for name, after in cpu_sec(bed).items()}
    figures["cpu_ms_per_box"] = {name: round(1000 * sec / boxes, 2) for name, sec in used.items()}
    figures["cpu_ms_per_box"]["all"] = round(1000 * sum(used.values()) / boxes, 2)
    made = {name: count - calls.get(name, 0) for name, count in client.calls.items()}
    writes = sum(count for name, count in made.items() if not name.startswith("GET"))
    figures |= {"writes_per_box": round(writes / boxes, 2), "wall_sec": round(seconds, 2), "load": os.getloadavg()[0]}


def spread(values: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(values)
    at = {f"p{q}": ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] for q in (50, 95, 99)}
    return {name: round(1000 * value, 1) for name, value in {**at, "max": ordered[-1]}.items()}


async def settle(farm: Farm, ready: int, patience_sec: float = 900.0) -> None:
    """Until so many boxes are ready."""
    pool = farm.pools["env"]
    async with asyncio.timeout(patience_sec):
        while pool.counts[Phase.ready] < ready:
            if farm.failure is not None:
                raise farm.failure
            await asyncio.sleep(0.01)


def farm_of(name: str, size: int, placing: Placing, *, rate: float = 1e6) -> FarmSpec:
    return FarmSpec.of(name, PoolSpec("env", size, SHAPE, placing, rate=rate, burst=1e6 if rate >= 1e6 else 1.0))


async def burst(bed: Bed, client: KubeClient, store: Store, size: int, placing: Placing, turn: int) -> dict[str, Any]:
    """All at once; drained afterwards."""
    figures: dict[str, Any] = {"boxes": size}
    async with Farm(farm_of(f"b{placing.value[:2]}{turn}", size, placing), store, client) as farm:
        start = time.monotonic()
        with counted(bed, client, figures):
            await settle(farm, size)
        seconds = time.monotonic() - start
        figures |= {"ready_per_sec": round(size / seconds, 1), "start": spread(list(farm.watcher.starts))}
        figures["refusals"] = sum(
            n for name, n in client.calls.items() if name.split()[1] in ("403", "422", "500", "503")
        )
        await farm.drain()
    return figures


async def yardstick(bed: Bed, client: KubeClient, loader: Path, size: int, turn: int) -> dict[str, Any]:
    """The same Pods by the loader."""
    prefix, shards = f"load{turn}", FarmSpec.of("x", PoolSpec("env", size, SHAPE)).shards
    for number in range(shards):
        body = json.dumps(manifests.namespace(f"{prefix}-{number}", prefix)).encode()
        await client.call("POST", "/api/v1/namespaces", what="create namespaces", body=body)
    await asyncio.sleep(2)  # their service accounts
    labels = {manifests.LABEL_RUN: prefix, manifests.LABEL_POOL: "env", manifests.LABEL_SLOT: "0"}
    pod = manifests.box_pod(SHAPE, name="x", namespace="x", labels=labels, token="t" * 40)
    figures: dict[str, Any] = {"boxes": size}
    with counted(bed, client, figures):
        command = [str(loader), f"--kubeconfig={bed.kubeconfig()}", f"--count={size}", f"--prefix={prefix}"]
        done = await asyncio.to_thread(
            subprocess.run, [*command, f"--shards={shards}"], input=json.dumps(pod).encode(), stdout=subprocess.PIPE,
            check=True,
        )  # fmt: skip
    seconds = json.loads(done.stdout)["ready_sec"]
    figures["ready_per_sec"] = round(size / seconds, 1)
    for number in range(shards):
        await client.call("DELETE", f"/api/v1/namespaces/{prefix}-{number}", what="delete namespaces")
    for number in range(shards):
        path = f"/api/v1/namespaces/{prefix}-{number}/pods"
        while json.loads(await client.call("GET", path, what="list pods", query={"limit": "1"}))["items"]:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return figures


async def open_loop(farm: Farm, rate: float, seconds: float) -> dict[str, Any]:
    """Boxes leave at ``rate``, by the clock and whatever is still under way; their places are filled again."""
    farm.watcher.starts.clear()
    start, number = time.monotonic(), 0
    tasks: list[asyncio.Task[None]] = []

    async def one() -> None:
        (lease,) = await farm.acquire("env", "bench", timeout_sec=60)
        await farm.release(lease)

    while (now := time.monotonic()) < start + seconds:
        while start + number / rate <= now:
            tasks.append(asyncio.create_task(one()))
            number += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    await asyncio.sleep(2)
    return {"boxes": number, "rate": rate, "create_to_ready": spread(list(farm.watcher.starts))}


async def claims(farm: Farm, rate: float, seconds: float) -> dict[str, Any]:
    """Warm claims at a rate, each held for a second."""
    took: list[float] = []

    async def one() -> None:
        begun = time.perf_counter()
        (lease,) = await farm.acquire("env", "bench", timeout_sec=60)
        took.append(time.perf_counter() - begun)
        await asyncio.sleep(1)
        await farm.release(lease)

    start, number, tasks = time.monotonic(), 0, list[asyncio.Task[None]]()
    while (now := time.monotonic()) < start + seconds:
        while start + number / rate <= now:
            tasks.append(asyncio.create_task(one()))
            number += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    return {"claims": number, "rate": rate, "claim": spread(took)}


async def claim_burst(farm: Farm, count: int) -> dict[str, Any]:
    """All at the same moment."""
    took: list[float] = []

    async def one() -> Any:
        begun = time.perf_counter()
        (lease,) = await farm.acquire("env", "bench", timeout_sec=60)
        took.append(time.perf_counter() - begun)
        return lease

    leases = await asyncio.gather(*(one() for _ in range(count)))
    await asyncio.gather(*(farm.release(lease) for lease in leases))
    return {"claims": count, "claim": spread(took)}


async def measure(bed: Bed, arguments: argparse.Namespace, loader: Path, store: Store) -> dict[str, Any]:
    """All parts."""
    found: dict[str, Any] = {"burst": {"scheduler": [], "direct": [], "loader": []}}
    async with KubeClient(load_cluster(bed.kubeconfig())) as client:
        for turn in range(arguments.turns):
            for placing in Placing:
                row = await burst(bed, client, store, arguments.burst, placing, turn)
                found["burst"][placing.value].append(row)
                say(placing.value, row)
            row = await yardstick(bed, client, loader, arguments.burst, turn)
            found["burst"]["loader"].append(row)
            say("loader", row)
        rates = {name: statistics.median(row["ready_per_sec"] for row in rows) for name, rows in found["burst"].items()}
        found["ratios"] = {
            "scheduler / loader (bar 0.90)": round(rates["scheduler"] / rates["loader"], 3),
            "direct / scheduler (bar 1.35)": round(rates["direct"] / rates["scheduler"], 3),
        }
        say("ratios", found["ratios"])
        if arguments.seconds:
            async with Farm(farm_of("loop", 1000, Placing.scheduler), store, client) as farm:
                await settle(farm, 1000)
                figures: dict[str, Any] = {"boxes": int(arguments.rate * arguments.seconds)}
                with counted(bed, client, figures):
                    figures |= await open_loop(farm, arguments.rate, arguments.seconds)
                found["open_loop"] = figures
                say("open loop", figures)
                await farm.drain()
        if arguments.claims:
            async with Farm(farm_of("warm", 3700, Placing.direct), store, client) as farm:
                await settle(farm, 3700)
                found["claims"] = await claims(farm, arguments.claims, 15)
                say("claims", found["claims"])
                await settle(farm, 3700)
                found["claim_burst"] = await claim_burst(farm, 3600)
                say("claim burst", found["claim_burst"])
                await farm.drain()
        if arguments.held:
            async with Farm(farm_of("held", arguments.held, Placing.direct), store, client) as farm:
                start = time.monotonic()
                await settle(farm, arguments.held)
                found["held"] = {"boxes": arguments.held, "ready_sec": round(time.monotonic() - start, 1)}
                before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
                await asyncio.sleep(arguments.hold_sec)
                after = resource.getrusage(resource.RUSAGE_SELF)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                found["held"] |= {
                    "controller_cpu_share": round(used / (time.monotonic() - begun), 3),
                    "controller_rss_mb": rss_mb(),
                    "open_loop_60": await open_loop(farm, 60, 60),
                }
                say("held", found["held"])
                await farm.drain()
    return found


def rss_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def say(name: str, row: dict[str, Any]) -> None:
    print(name, json.dumps(row), file=sys.stderr, flush=True)


def main() -> int:
    """0 once measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--burst", type=int, default=5000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--claims", type=float, default=200.0)
    parser.add_argument("--held", type=int, default=0)
    parser.add_argument("--hold-sec", type=float, default=600.0)
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs.build_module(LOADER, Path(folder))
        bed = beds.up(Shape.fleet, say=lambda text: print(text, file=sys.stderr))
        try:
            with bed.inside(), Store.open(f"sqlite:///{folder}/farm.db") as store:
                found = asyncio.run(measure(bed, arguments, Path(folder) / "loader", store))
        finally:
            bed.down()
    print(json.dumps(found, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
