"""``Farm``: the one controller of a farm's Pods. Entered, it takes the farm over with all that is there; left, it lets
the boxes be, for the next one; :meth:`drain` ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from envfarm.core.errors import ClusterError, EnvfarmError, Reason
from envfarm.core.failpoints import failpoint
from envfarm.kube.client import KubeClient
from envfarm.kube.informer import Informer
from envfarm.kube.manifests import LABEL_RUN
from envfarm.kube.slim import Pod
from envfarm.store import Store
from envfarm.store.slots import Hold, Place, Slots

from . import calls
from .events import Watcher
from .ground import Ground
from .leasing import Committer, Counter, Lease
from .limits import Bucket
from .naming import pod_name, shard
from .pool import Phase, Pool, Slot
from .spec import FarmSpec, PoolSpec
from .tasks import Tasks

log = logging.getLogger(__name__)

_LEAD_SEC = 30.0
_LEASE_SEC = 120.0
_SWEEP_SEC = 5.0
_TICK_SEC = 0.05


class Farm:
    """An async context manager over a store and a client of the cluster."""

    def __init__(self, spec: FarmSpec, store: Store, client: KubeClient, *, holder: str = "", makers: int = 64) -> None:
        self.spec = spec
        self._slots = Slots(store, spec.name)
        self._client = client
        self._holder = holder or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._epoch, self._secret = 0, ""
        self.pools = {each.name: _empty_pool(spec, each) for each in spec.pools}
        self._specs = {each.name: each for each in spec.pools}
        self._counters = {name: Counter(pool) for name, pool in self.pools.items()}
        self.watcher = Watcher(
            self.pools, time.monotonic,
            on_ready=lambda pool: self._counters[pool.name].serve(), on_lost=self._lost, on_stray=self._stray,
            on_ended=self._end_soon, on_empty=self._emptied,
        )  # fmt: skip
        self._committer = Committer(self._slots, lambda: self._epoch, _LEASE_SEC)
        self._ground = Ground(spec, client)
        self._leases: dict[tuple[str, int], Lease] = {}
        self._calls: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        self._makers = makers
        self._wake = asyncio.Event()
        self._open = contextlib.AsyncExitStack()
        self.informers: list[Informer] = []
        self.failure: BaseException | None = None
        """What ended the controller, if anything did."""

    # -- coming and going ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Lead the farm, make its namespaces, find its boxes. Raises ``StoreError`` (lease_lost: it has a controller),
        ``ClusterError``."""
        self._epoch, self._secret = await asyncio.to_thread(self._slots.lead, self._holder, _LEAD_SEC)
        try:
            await self._ground.prepare()
            known = self._known(await asyncio.to_thread(self._slots.places))
            self._remember(known)
            for namespace in self._ground.namespaces:
                path = f"/api/v1/namespaces/{namespace}/pods"
                informer = Informer(
                    self._client, path, selector=f"{LABEL_RUN}={self.spec.name}", on_change=self.watcher.changed
                )
                await calls.insist(informer.relist, tries=8)
                self.informers.append(await self._open.enter_async_context(informer))
            self._settle(known)
            tasks = await self._open.enter_async_context(Tasks(self._failed))
            for _ in range(self._makers):
                tasks.start(self._work())
            for loop in (self._fill(), self._lead(), self._sweep()):
                tasks.start(loop)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._leave())

    async def _leave(self) -> None:
        await self._open.aclose()
        while not self._calls.empty():
            self._calls.get_nowait().close()
        with contextlib.suppress(EnvfarmError):  # the store is away: the farm's lease runs out by itself
            await asyncio.to_thread(self._slots.leave, self._epoch)

    async def drain(self) -> None:
        """End every box and every namespace; returns when nothing is left."""
        for pool in self.pools.values():
            pool.declared = 0
        while any(pool.boxes for pool in self.pools.values()):
            for pool in self.pools.values():
                for slot in pool.slots:  # one that is asked for now shows up later
                    if slot.phase in (Phase.starting, Phase.ready, Phase.held):
                        pool.move(slot, Phase.leaving)
                        self._lost(pool, slot, "drained")
                        self._end_soon(pool, slot)
            if self.failure is not None:
                raise self.failure
            await asyncio.sleep(_TICK_SEC)
        for name in self._ground.namespaces:
            with contextlib.suppress(ClusterError):  # gone is what is wanted
                await self._client.call("DELETE", f"/api/v1/namespaces/{name}", what="delete namespaces")

    # -- leases ----------------------------------------------------------------------------------------------------

    async def acquire(self, pool: str, holder: str, *, count: int = 1, timeout_sec: float = 60.0) -> list[Lease]:
        """``count`` ready boxes, all or none. Raises ``Refused``, ``StoreError``."""
        counter = self._counters[pool]
        slots = await counter.take(count, timeout_sec)
        holds: list[Hold] = []
        for slot in slots:
            slot.token += 1
            holds.append(Hold(pool, slot.index, slot.generation, slot.token, holder))
        try:
            await self._committer.hold(holds)
        except BaseException:
            for slot in slots:
                counter.put_back(slot)
            raise
        leases = [self._lease(pool, slot, hold) for slot, hold in zip(slots, holds, strict=True)]
        for slot, lease in zip(slots, leases, strict=True):
            if slot.phase is Phase.held:
                self._leases[pool, slot.index] = lease
            else:  # it ended while the lease was written
                lease.lost.set_result("deleted")
        return leases

    async def release(self, lease: Lease) -> None:
        """The lease is over, and the box with it: the next holder gets a fresh one. Doing it again is no error."""
        pool, slot = self.pools[lease.pool], self.pools[lease.pool].slots[lease.hold.slot]
        self._leases.pop((lease.pool, slot.index), None)
        if slot.generation == lease.hold.generation and slot.phase is Phase.held:
            pool.move(slot, Phase.leaving)
            self._end_soon(pool, slot)
        await self._committer.free(lease.hold)

    def _lease(self, pool: str, slot: Slot, hold: Hold) -> Lease:
        name = pod_name(pool, slot.index, slot.generation)
        token = calls.token_of(self._secret, name)
        return Lease(pool, name, slot.namespace, slot.address, slot.node, token, hold)

    def _lost(self, pool: Pool, slot: Slot, why: str) -> None:
        lease = self._leases.pop((pool.name, slot.index), None)
        if lease is not None and not lease.lost.done():
            lease.lost.set_result(why)

    # -- what was before us ----------------------------------------------------------------------------------------

    def _known(self, places: list[Place]) -> list[tuple[Place, Pool, Slot]]:
        """Those that the farm still has."""
        found = ((place, self.pools[place.pool]) for place in places if place.pool in self.pools)
        return [(place, pool, pool.slots[place.slot]) for place, pool in found if place.slot < len(pool.slots)]

    def _remember(self, known: list[tuple[Place, Pool, Slot]]) -> None:
        """What the store says was meant: before the cluster is asked, so that its answer finds the places."""
        for place, pool, slot in known:
            slot.generation, slot.token = place.generation, place.token
            pool.move(slot, Phase.asked)
            slot.asked_at = time.monotonic()

    def _settle(self, known: list[tuple[Place, Pool, Slot]]) -> None:
        """What was meant and is not there: asked for again under the same name, unless a lease proves that it was there
        and is gone. What is leased stays so."""
        for place, pool, slot in known:
            if slot.phase is Phase.asked and place.holder:
                pool.move(slot, Phase.empty)
            elif slot.phase is Phase.asked:
                self._calls.put_nowait(self._create(pool, slot, slot.generation))
            elif slot.phase is Phase.ready and place.holder:
                pool.move(slot, Phase.held)
                hold = Hold(pool.name, slot.index, slot.generation, slot.token, place.holder)
                self._leases[pool.name, slot.index] = self._lease(pool.name, slot, hold)
            self._ground.found(pool.name, slot.node)

    # -- work ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await (await self._calls.get())

    async def _fill(self) -> None:
        """Asks for boxes where places are empty: first in the store, then of the cluster."""
        while True:
            now = time.monotonic()
            asked: list[tuple[Pool, Slot]] = []
            for pool in self.pools.values():
                if self._calls.qsize() < 2 * self._makers:
                    asked += [(pool, slot) for slot in pool.to_fill(now)]
            if asked:
                for pool, slot in asked:
                    slot.generation += 1
                    slot.asked_at = now
                    pool.move(slot, Phase.asked)
                boxes = [(pool.name, slot.index, slot.generation) for pool, slot in asked]
                await asyncio.to_thread(self._slots.intend, self._epoch, boxes)
                failpoint("farm.intend.after")
                for pool, slot in asked:
                    self._calls.put_nowait(self._create(pool, slot, slot.generation))
            self._wake.clear()
            with contextlib.suppress(TimeoutError):  # time passes for buckets and breakers as well
                async with asyncio.timeout(_TICK_SEC):
                    await self._wake.wait()

    async def _create(self, pool: Pool, slot: Slot, generation: int) -> None:
        name = pod_name(pool.name, slot.index, generation)
        slot.node = self._ground.place(pool.name)
        if not slot.node and self._ground.chooses(pool.name):
            pool.breaker.failed(Reason.capacity, "no node has room for it.", time.monotonic())
            pool.move(slot, Phase.empty)
            return
        body = self._ground.body(pool.name, slot, name=name, token=calls.token_of(self._secret, name))
        failpoint("farm.create.before")
        try:
            pod = await calls.create(self._client, slot.namespace, name, self.spec.name, body)
        except ClusterError as error:  # a refusal: the place stays empty until the breaker lets another try
            log.warning("%s", error)
            pool.breaker.failed(calls.reason_of(error), str(error), time.monotonic())
            if slot.generation == generation and slot.phase is Phase.asked:
                self._emptied(pool, slot)
                pool.move(slot, Phase.empty)
            return
        failpoint("farm.create.after")
        if slot.generation == generation and slot.phase is Phase.asked:
            # the watch tells the rest, and may have told it already
            if pod.ended:
                pool.move(slot, Phase.leaving)
            else:
                pool.move(slot, Phase.starting)

    def _emptied(self, pool: Pool, slot: Slot) -> None:
        self._ground.left(pool.name, slot.node)
        self._wake.set()

    def _end_soon(self, pool: Pool, slot: Slot) -> None:
        name = pod_name(pool.name, slot.index, slot.generation)
        self._calls.put_nowait(self._end(slot.namespace, name))

    def _stray(self, pod: Pod) -> None:
        self._calls.put_nowait(self._end(pod.metadata.namespace, pod.metadata.name))

    async def _end(self, namespace: str, name: str) -> None:
        failpoint("farm.end.before")
        await calls.end(self._client, namespace, name)

    async def _lead(self) -> None:
        while True:
            await asyncio.sleep(_LEAD_SEC / 3)
            await asyncio.to_thread(self._slots.stay, self._epoch, _LEAD_SEC)

    async def _sweep(self) -> None:
        """Boxes that do not get ready are made anew; leases that have run out end with their boxes."""
        while True:
            await asyncio.sleep(_SWEEP_SEC)
            now = time.monotonic()
            for pool in self.pools.values():
                patience = self._specs[pool.name].start_sec
                for slot in pool.slots:
                    late = slot.phase is Phase.starting and not slot.unschedulable and now - slot.asked_at > patience
                    if late:
                        pool.move(slot, Phase.leaving)
                        self.watcher.losses["start_timeout"] += 1
                        self._end_soon(pool, slot)
            for place in await asyncio.to_thread(self._slots.overdue):
                lease = self._leases.get((place.pool, place.slot))
                if lease is not None and lease.hold.token == place.token:
                    self.watcher.losses["lease_expired"] += 1
                    self._lost(self.pools[place.pool], self.pools[place.pool].slots[place.slot], "lease_expired")
                    await self.release(lease)

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        for lease in self._leases.values():
            if not lease.lost.done():
                lease.lost.set_result("controller")
        log.error("the controller of farm %s ends: %s", self.spec.name, error)


def _empty_pool(farm: FarmSpec, spec: PoolSpec) -> Pool:
    slots = [Slot(index, shard(farm.name, index, farm.shards)) for index in range(spec.size)]
    return Pool(spec.name, spec.size, Bucket(spec.rate, spec.burst), slots)
