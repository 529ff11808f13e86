"""What a farm stands on in the cluster: namespaces, root objects, bodies of Pods, and nodes where it chooses."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from envfarm.kube import manifests
from envfarm.kube.client import KubeClient
from envfarm.kube.manifests import LABEL_POOL, LABEL_RUN, LABEL_SLOT
from envfarm.kube.template import PodTemplate

from . import calls
from .naming import shard
from .placement import NodeList, Placement
from .pool import Slot
from .spec import FarmSpec, Placing, PoolSpec

_NODES = msgspec.json.Decoder(NodeList)


class Ground:
    """Of one farm."""

    def __init__(self, spec: FarmSpec, client: KubeClient) -> None:
        self._spec, self._client = spec, client
        self.namespaces = [shard(spec.name, number, spec.shards) for number in range(spec.shards)]
        self._templates: dict[tuple[str, str], PodTemplate] = {}
        self._placements: dict[str, Placement] = {}

    async def prepare(self) -> None:
        """Make what is missing, look at the nodes. Raises ``ClusterError``."""
        for namespace in self.namespaces:
            owner = await self._root(namespace)
            for pool in self._spec.pools:
                self._templates[pool.name, namespace] = self._template(pool, namespace, owner)
        direct = [pool for pool in self._spec.pools if pool.placing is Placing.direct]
        if not direct:
            return
        found = _NODES.decode(await calls.fetch(self._client, "/api/v1/nodes", "list nodes"))
        for pool in direct:
            shape = pool.shape
            self._placements[pool.name] = Placement(
                found.items, cpus=shape.cpus, memory_mb=shape.memory_mb, image=shape.image,
                tolerations=shape.tolerations, selector=shape.node_selector,
            )  # fmt: skip

    def body(self, pool: str, slot: Slot, *, name: str, token: str) -> bytes:
        """Of the create of a place's next box, on the place's node where it has one."""
        template = self._templates[pool, slot.namespace]
        return template.body(name=name, slot=str(slot.index), token=token, node=slot.node)

    def chooses(self, pool: str) -> bool:
        """Whether we choose the nodes of this pool's boxes, not the scheduler."""
        return pool in self._placements

    def place(self, pool: str) -> str:
        """The node of the next box; empty when all are full, or where the scheduler chooses."""
        return self._placements[pool].place() if pool in self._placements else ""

    def found(self, pool: str, node: str) -> None:
        """A box of an earlier controller is on ``node``."""
        if node and pool in self._placements:
            self._placements[pool].taken(node)

    def left(self, pool: str, node: str) -> None:
        """A box has left ``node``."""
        if node and pool in self._placements:
            self._placements[pool].gone(node)

    async def _root(self, namespace: str) -> dict[str, Any]:
        """The namespace and its root object; the reference to that."""
        body = msgspec.json.encode(manifests.namespace(namespace, self._spec.name))
        await calls.ensure(self._client, "/api/v1/namespaces", body, "create namespaces")
        root = manifests.root_object("envfarm-root", namespace, self._spec.name)
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        await calls.ensure(self._client, path, msgspec.json.encode(root), f"create configmaps in {namespace}")
        made = await calls.fetch(self._client, f"{path}/envfarm-root", f"get configmaps in {namespace}")
        return manifests.owner_reference({**root, **json.loads(made)})

    def _template(self, pool: PoolSpec, namespace: str, owner: dict[str, Any]) -> PodTemplate:
        def make(*, name: str, slot: str, token: str, node: str) -> dict[str, Any]:
            labels = {LABEL_RUN: self._spec.name, LABEL_POOL: pool.name, LABEL_SLOT: slot}
            return manifests.box_pod(
                pool.shape, name=name, namespace=namespace, labels=labels, token=token, owner=owner, node=node
            )

        return PodTemplate(make)
