"""Boxes on a real kubelet: a warm pool whose boxes answer, what they may not do, and what admission refuses."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from envfarm.core.box import ExecRequest
from envfarm.core.errors import ClusterError, Reason, Refused
from envfarm.farm.pods.controller import Farm
from envfarm.farm.pods.leasing import Lease
from envfarm.farm.pods.pool import Phase
from envfarm.farm.pods.spec import FarmSpec, Placing, PoolSpec
from envfarm.kube import manifests
from envfarm.kube.client import KubeClient
from envfarm.kube.cluster import load_cluster
from envfarm.kube.manifests import AGENT_PORT, BoxShape
from envfarm.sandbox.client import AgentSandbox
from envfarm.store import Store
from envfarm.testbed.bed import Bed

from .images import AGENT, BOX

pytestmark = pytest.mark.k8s
SHAPE = BoxShape(image=BOX, agent_image=AGENT, cpus=0.1, memory_mb=128, disk_mb=32, pull_policy="Never")


@pytest.fixture
async def client(node: Bed) -> AsyncIterator[KubeClient]:
    """Of the bed with the real node."""
    with node.inside():
        async with KubeClient(load_cluster(node.kubeconfig())) as made:
            yield made


def farm_spec(size: int, shape: BoxShape = SHAPE, placing: Placing = Placing.scheduler) -> FarmSpec:
    return FarmSpec(f"n{secrets.token_hex(3)}", (PoolSpec("env", size, shape, placing),))


def agent(lease: Lease, token: str = "") -> AgentSandbox:
    connect = functools.partial(asyncio.open_connection, lease.address, AGENT_PORT)
    return AgentSandbox(lease.name, connect, token or lease.token)


async def ready(farm: Farm, count: int) -> None:
    async with asyncio.timeout(90):
        while farm.pools["env"].counts[Phase.ready] < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("placing", list(Placing))
async def test_a_warm_pool_answers_and_is_fresh_for_each_holder(
    client: KubeClient, store: Store, placing: Placing
) -> None:
    async with Farm(farm_spec(4, placing=placing), store, client) as farm:
        await ready(farm, 4)
        leases = await farm.acquire("env", "me", count=2)
        for lease in leases:
            result = await agent(lease).exec(ExecRequest(argv=("sh", "-c", "echo used > /tmp/mine"), cwd="/tmp"))
            assert result.ok
        used = {lease.name for lease in leases}
        for lease in leases:
            await farm.release(lease)
        await ready(farm, 4)
        for lease in await farm.acquire("env", "you", count=4):
            assert lease.name not in used
            assert (await agent(lease).stat("/tmp/mine")) is None
        await farm.drain()


async def test_nothing_in_a_box_is_worth_having(client: KubeClient, store: Store) -> None:
    async with Farm(farm_spec(1), store, client) as farm:
        (lease,) = await farm.acquire("env", "me", timeout_sec=60)
        box = agent(lease)

        async def said(script: str) -> str:
            return (await box.exec(ExecRequest(argv=("sh", "-c", script), cwd="/tmp"))).stdout.decode()

        status = await said("cat /proc/self/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert (await said("id -u")).strip() == "61000"
        assert await said("ls /var/run/secrets 2>/dev/null") == ""
        assert lease.token not in await said("env; cat /proc/1/environ /proc/[0-9]*/environ 2>/dev/null")
        with pytest.raises(Exception, match="token"):
            await agent(lease, "x" * 40).stat("/tmp")
        await farm.drain()


async def test_a_box_that_ends_itself_is_lost_with_evidence(client: KubeClient, store: Store) -> None:
    async with Farm(farm_spec(1), store, client) as farm:
        (lease,) = await farm.acquire("env", "me", timeout_sec=60)
        await agent(lease).shutdown()
        assert await asyncio.wait_for(lease.lost, 30) == "ended"
        await ready(farm, 1)
        await farm.drain()


async def test_an_image_that_cannot_be_had_is_said(client: KubeClient, store: Store) -> None:
    shape = dataclasses.replace(SHAPE, image="envfarm.test/absent:1")
    async with Farm(farm_spec(2, shape), store, client) as farm:
        with pytest.raises(Refused, match="absent:1") as caught:
            await farm.acquire("env", "me", timeout_sec=15)
        assert caught.value.reason is Reason.image
        await farm.drain()


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        at: Any = pod["spec"]
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to

    return change


BOX_CONTEXT = ("containers", 0, "securityContext")
MUTANTS = {
    "host network": _set("hostNetwork", to=True),
    "host pid": _set("hostPID", to=True),
    "privileged": _set(*BOX_CONTEXT, to={"privileged": True}),
    "escalation": _set(*BOX_CONTEXT, "allowPrivilegeEscalation", to=True),
    "capability": _set(*BOX_CONTEXT, "capabilities", to={"drop": ["ALL"], "add": ["NET_ADMIN"]}),
    "capabilities kept": _set(*BOX_CONTEXT, "capabilities", to={}),
    "root": _set(*BOX_CONTEXT, "runAsUser", to=0),
    "root allowed": _set(*BOX_CONTEXT, "runAsNonRoot", to=False),
    "no seccomp": _set(*BOX_CONTEXT, "seccompProfile", to={"type": "Unconfined"}),
    "host folder": _set("volumes", 0, to={"name": "scratch", "hostPath": {"path": "/"}}),
    "init container as root": _set("initContainers", 0, "securityContext", "runAsUser", to=0),
}


async def test_our_pod_is_admitted_and_a_mutant_of_each_rule_is_refused(client: KubeClient) -> None:
    name = f"adm-{secrets.token_hex(3)}"
    body = msgspec.json.encode(manifests.namespace(name, "test"))
    await client.call("POST", "/api/v1/namespaces", what="create namespaces", body=body)
    await asyncio.sleep(1)
    path, dry = f"/api/v1/namespaces/{name}/pods", {"dryRun": "All"}
    pod = manifests.box_pod(SHAPE, name="x", namespace=name, labels={}, token="t" * 40)
    await client.call("POST", path, what="create pods", body=json.dumps(pod).encode(), query=dry)
    for what, change in MUTANTS.items():
        mutant = copy.deepcopy(pod)
        change(mutant)
        with pytest.raises(ClusterError, match="violates PodSecurity"):
            await client.call("POST", path, what=f"create {what}", body=json.dumps(mutant).encode(), query=dry)
    await client.call("DELETE", f"/api/v1/namespaces/{name}", what="delete namespaces")
