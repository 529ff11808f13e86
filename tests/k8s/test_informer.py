"""The informer against a real API server, with and without faults between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest

from envfarm.core.errors import ClusterError, Reason
from envfarm.kube import manifests
from envfarm.kube.client import KubeClient
from envfarm.kube.cluster import Cluster, load_cluster
from envfarm.kube.informer import Informer
from envfarm.kube.slim import Pod, PodList
from envfarm.testbed.bed import Bed

from .faults import FaultProxy
from .images import SIMULATED as SHAPE

pytestmark = pytest.mark.k8s


@pytest.fixture
async def namespace(client: KubeClient) -> AsyncIterator[str]:
    """One of the test's own, with its default service account there."""
    name = f"t-{secrets.token_hex(4)}"
    body = msgspec.json.encode(manifests.namespace(name, "test"))
    await client.call("POST", "/api/v1/namespaces", what="create namespaces", body=body)
    for _ in range(100):
        with contextlib.suppress(ClusterError):
            await client.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default", what="get serviceaccounts")
            break
        await asyncio.sleep(0.05)
    yield name
    await client.call("DELETE", f"/api/v1/namespaces/{name}", what="delete namespaces")


def path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


async def create(client: KubeClient, namespace: str, name: str) -> None:
    pod = manifests.box_pod(SHAPE, name=name, namespace=namespace, labels={}, token="t" * 20)
    await client.call("POST", path(namespace), what="create pods", body=json.dumps(pod).encode())


async def listed(client: KubeClient, namespace: str) -> dict[str, Pod]:
    found = msgspec.json.decode(await client.call("GET", path(namespace), what="list pods"), type=PodList)
    return {f"{namespace}/{pod.metadata.name}": pod for pod in found.items}


async def equal(informer: Informer, client: KubeClient, namespace: str, within_sec: float = 20.0) -> bool:
    """Whether the cache becomes equal to a list; versions and all."""
    deadline = asyncio.get_running_loop().time() + within_sec
    while asyncio.get_running_loop().time() < deadline:
        if informer.pods == await listed(client, namespace):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_it_tells_every_pod_from_its_making_to_its_end(client: KubeClient, namespace: str) -> None:
    told: list[tuple[bool, bool, bool]] = []

    def change(was: Pod | None, now: Pod | None) -> None:
        told.append((was is not None, now is not None, now is not None and now.ready))

    async with Informer(client, path(namespace), on_change=change) as informer:
        await create(client, namespace, "one")
        for _ in range(200):
            if any(pod.ready for pod in informer.pods.values()):
                break
            await asyncio.sleep(0.05)
        await client.call("DELETE", f"{path(namespace)}/one", what="delete pods", body=b'{"gracePeriodSeconds":1}')
        for _ in range(200):
            if not informer.pods:
                break
            await asyncio.sleep(0.05)
    assert told[0] == (False, True, False)
    assert (True, True, True) in told
    assert told[-1] == (True, False, False)
    assert informer.lists == 1


@pytest.mark.parametrize("seed", range(12))
async def test_after_faults_the_cache_equals_a_list(
    client: KubeClient, cluster: Cluster, namespace: str, seed: int
) -> None:
    rng = random.Random(seed)
    known: dict[str, Pod] = {}

    def change(was: Pod | None, now: Pod | None) -> None:
        pod = now or was
        assert pod is not None
        key = pod.metadata.name
        assert known.get(key) == was or (was is not None and now is None), "every change starts from what was told"
        if now is None:
            known.pop(key, None)
        else:
            known[key] = now

    async with FaultProxy(cluster, seed, gone=0.2, cut=0.6, silent=1.0, early=0.1, failed=0.1) as proxy:
        async with KubeClient(proxy.cluster) as through:
            for _ in range(20):
                try:
                    informer = await Informer(through, path(namespace), on_change=change, stall_sec=1.0).__aenter__()
                    break
                except ClusterError:  # the first list may be hit as well: its caller tries again
                    known.clear()
            names: list[str] = []
            for number in range(40):
                if names and rng.random() < 0.4:
                    name = names.pop(rng.randrange(len(names)))
                    await client.call(
                        "DELETE", f"{path(namespace)}/{name}", what="delete pods", body=b'{"gracePeriodSeconds":0}'
                    )
                else:
                    await create(client, namespace, f"p-{number}")
                    names.append(f"p-{number}")
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() / 2)
            try:
                assert await equal(informer, client, namespace)
                assert {f"{namespace}/{name}" for name in known} == set(informer.pods)
                assert proxy.injected, "the history had faults"
            finally:
                await informer.__aexit__(None, None, None)


async def test_a_watch_resumes_without_listing_again(client: KubeClient, cluster: Cluster, namespace: str) -> None:
    async with FaultProxy(cluster, 1, cut=1.0) as proxy, KubeClient(proxy.cluster) as through:
        async with Informer(through, path(namespace)) as informer:
            for number in range(20):
                await create(client, namespace, f"p-{number}")
                await asyncio.sleep(0.05)
            assert await equal(informer, client, namespace)
            assert proxy.injected["cut"] > 1
            assert informer.resumed >= proxy.injected["cut"] - 1
            assert informer.lists == 1


async def test_the_api_servers_own_410_is_a_relist(client: KubeClient, namespace: str) -> None:
    async with Informer(client, path(namespace)) as informer:
        await create(client, namespace, "one")
        informer.version = "1"  # long compacted
        assert informer._task is not None
        informer._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await informer._task
        informer._task = asyncio.create_task(informer._run())
        assert await equal(informer, client, namespace)


async def test_a_user_without_rights_is_told_what_is_missing(fleet: Bed, client: KubeClient, namespace: str) -> None:
    async with KubeClient(load_cluster(fleet.kubeconfig("nobody"))) as nobody:
        with pytest.raises(ClusterError, match='cannot list resource "pods"') as caught:
            await Informer(nobody, path(namespace)).__aenter__()
    assert caught.value.reason is Reason.forbidden
    assert "role" in caught.value.remedy


async def test_retry_after_is_honoured(client: KubeClient, cluster: Cluster, namespace: str) -> None:
    async with FaultProxy(cluster, 3, busy=0.4) as proxy, KubeClient(proxy.cluster) as through:
        await asyncio.gather(*(create(through, namespace, f"p-{number}") for number in range(30)))
    assert len(await listed(client, namespace)) == 30
    assert proxy.retry_after
    for key, told in proxy.retry_after:
        again = [at for other, at in proxy.calls if other == key and at > told]
        assert min(again) - told >= 0.2, "nobody came back before they were asked to"


async def test_no_cluster_is_one_clear_sentence(fleet: Bed) -> None:
    with fleet.inside():
        async with KubeClient(Cluster("http://127.0.0.1:9", None, lambda: "")) as nowhere:
            with pytest.raises(ClusterError, match="gave no answer") as caught:
                await nowhere.call("GET", "/api/v1/nodes", what="list nodes")
    assert caught.value.reason is Reason.cluster_unreachable
    assert caught.value.code == 0
