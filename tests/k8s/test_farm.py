"""The farm's controller on a real API server with simulated nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from envfarm.core.errors import ClusterError, Reason, Refused, StoreError
from envfarm.farm.pods.controller import Farm
from envfarm.farm.pods.pool import Phase
from envfarm.farm.pods.spec import FarmSpec, Placing, PoolSpec
from envfarm.kube.client import KubeClient
from envfarm.kube.cluster import Cluster
from envfarm.kube.manifests import LABEL_RUN, BoxShape
from envfarm.kube.slim import Pod, PodList
from envfarm.store import Store

from .faults import FaultProxy
from .images import SIMULATED as SHAPE

pytestmark = pytest.mark.k8s


@pytest.fixture
async def name(client: KubeClient) -> AsyncIterator[str]:
    """Of a farm of the test's own; its namespaces are gone afterwards."""
    made = f"f{secrets.token_hex(4)}"
    yield made
    for number in range(4):
        with contextlib.suppress(ClusterError):
            await client.call("DELETE", f"/api/v1/namespaces/{made}-{number}", what="delete namespaces")


def spec(
    name: str, size: int, *, placing: Placing = Placing.scheduler, shards: int = 2, shape: BoxShape = SHAPE
) -> FarmSpec:
    return FarmSpec(name, (PoolSpec("env", size, shape, placing),), shards)


async def until(true: Callable[[], bool], within_sec: float = 30.0) -> None:
    async with asyncio.timeout(within_sec):
        while not true():  # noqa: ASYNC110  (what is waited for is the cluster)
            await asyncio.sleep(0.02)


async def pods(client: KubeClient, farm: str) -> list[Pod]:
    query = {"labelSelector": f"{LABEL_RUN}={farm}"}
    data = await client.call("GET", "/api/v1/pods", what="list pods", query=query)
    return msgspec.json.decode(data, type=PodList).items


@pytest.mark.parametrize("placing", list(Placing))
async def test_a_pool_is_filled_leased_and_refilled(
    client: KubeClient, store: Store, name: str, placing: Placing
) -> None:
    async with Farm(spec(name, 20, placing=placing), store, client) as farm:
        pool = farm.pools["env"]
        await until(lambda: pool.counts[Phase.ready] == 20)
        leases = await farm.acquire("env", "me", count=3)
        assert len({lease.name for lease in leases}) == 3
        assert all(lease.address and lease.token for lease in leases)
        held = {lease.name for lease in leases}
        for lease in leases:
            await farm.release(lease)
            await farm.release(lease)  # twice is once
        await until(lambda: pool.counts[Phase.ready] == 20)
        there = {pod.metadata.name for pod in await pods(client, name)}
        assert not held & there, "the next holder gets a fresh box"
        assert len(there) == 20
        await farm.drain()
        assert await pods(client, name) == []


async def test_the_next_controller_takes_everything_over(client: KubeClient, store: Store, name: str) -> None:
    async with Farm(spec(name, 10), store, client) as first:
        await until(lambda: first.pools["env"].counts[Phase.ready] == 10)
        (lease,) = await first.acquire("env", "me")
        before = {pod.metadata.uid for pod in await pods(client, name)}
    async with Farm(spec(name, 10), store, client) as second:
        pool = second.pools["env"]
        assert pool.counts[Phase.held] == 1
        assert pool.counts[Phase.ready] == 9
        assert {pod.metadata.uid for pod in await pods(client, name)} == before
        (other,) = await second.acquire("env", "you")
        assert other.name != lease.name
        await second.drain()


async def test_two_controllers_at_once_are_refused(client: KubeClient, store: Store, name: str) -> None:
    async with Farm(spec(name, 1), store, client) as farm:
        with pytest.raises(StoreError, match="has a controller already") as caught:
            await Farm(spec(name, 1), store, client).__aenter__()
        assert caught.value.reason is Reason.lease_lost
        await farm.drain()


async def test_a_box_deleted_by_hand_is_lost_and_made_anew(client: KubeClient, store: Store, name: str) -> None:
    async with Farm(spec(name, 3), store, client) as farm:
        (lease,) = await farm.acquire("env", "me")
        path = f"/api/v1/namespaces/{lease.namespace}/pods/{lease.name}"
        await client.call("DELETE", path, what="delete pods", body=b'{"gracePeriodSeconds":0}')
        assert await asyncio.wait_for(lease.lost, 10) == "deleted"
        await until(lambda: farm.pools["env"].counts[Phase.ready] == 3)
        await farm.release(lease)  # of a box that is gone: no error
        await farm.drain()


async def test_answers_that_were_lost_make_no_second_box(
    client: KubeClient, cluster: Cluster, store: Store, name: str
) -> None:
    async with (
        FaultProxy(cluster, 5, lost=0.3, failed=0.2, early=0.1, busy=0.1) as proxy,
        KubeClient(proxy.cluster) as through,
    ):
        seen: set[str] = set()
        most = 0
        async with Farm(spec(name, 150), store, through) as farm:

            async def look() -> None:
                nonlocal most
                while True:
                    found = await pods(client, name)
                    most = max(most, len(found))
                    seen.update(pod.metadata.uid for pod in found)
                    await asyncio.sleep(0.05)

            looking = asyncio.create_task(look())
            await until(lambda: farm.pools["env"].counts[Phase.ready] == 150, 60)
            await asyncio.sleep(0.2)
            looking.cancel()
            assert most == 150, "never one more than declared"
            assert len(seen) == 150
            assert proxy.injected["lost"] + proxy.injected["failed"] > 20
    async with Farm(spec(name, 150), store, client) as farm:
        await farm.drain()


async def test_an_exhausted_quota_opens_the_breaker_and_is_told(client: KubeClient, store: Store, name: str) -> None:
    async with Farm(spec(name, 2, shards=1), store, client) as farm:
        await until(lambda: farm.pools["env"].counts[Phase.ready] == 2)
        await farm.drain()
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "2"}}}
    other = f"{name}q"
    async with Farm(spec(other, 0, shards=1), store, client):
        pass
    path = f"/api/v1/namespaces/{other}-0/resourcequotas"
    await client.call("POST", path, what="create resourcequotas", body=json.dumps(body).encode())
    try:
        async with Farm(spec(other, 6, shards=1), store, client) as farm:
            pool = farm.pools["env"]
            await until(lambda: pool.counts[Phase.ready] == 2 and pool.breaker.reason is not None)
            posts = client.calls.get("POST 403", 0)
            with pytest.raises(Refused, match="exceeded quota") as caught:
                await farm.acquire("env", "me", count=4, timeout_sec=1.0)
            assert caught.value.reason is Reason.quota
            assert caught.value.retry_sec > 0
            assert client.calls["POST 403"] - posts <= 3, "the breaker holds the others back"
            assert len(await farm.acquire("env", "me", count=2, timeout_sec=1.0)) == 2
            await farm.drain()
    finally:
        with contextlib.suppress(ClusterError):
            await client.call("DELETE", f"/api/v1/namespaces/{other}-0", what="delete namespaces")


async def test_a_cluster_without_room_is_told_as_such(client: KubeClient, store: Store, name: str) -> None:
    huge = BoxShape(image="i:1", agent_image="a:1", cpus=10_000, tolerations=SHAPE.tolerations)
    async with Farm(spec(name, 50, shape=huge), store, client) as farm:
        pool = farm.pools["env"]
        await until(lambda: pool.unschedulable > 0)
        with pytest.raises(Refused, match="no room") as caught:
            await farm.acquire("env", "me", timeout_sec=0.5)
        assert caught.value.reason is Reason.capacity
        await farm.drain()
