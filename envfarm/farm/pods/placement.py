"""Our own choice of a node: past the scheduler a Pod costs the API server two thirds."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class NodeMeta(msgspec.Struct, frozen=True):
    """Of a node."""

    name: str
    labels: dict[str, str] | None = None


class Taint(msgspec.Struct, frozen=True):
    """Keeps Pods away that do not tolerate it."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(msgspec.Struct, frozen=True):
    """What keeps Pods away."""

    unschedulable: bool = False
    taints: list[Taint] | None = None


class NodeCondition(msgspec.Struct, frozen=True):
    """Health."""

    type: str
    status: str


class NodeImage(msgspec.Struct, frozen=True):
    """An image that the node holds."""

    names: list[str] | None = None


class NodeStatus(msgspec.Struct, frozen=True):
    """What it has."""

    allocatable: dict[str, str] | None = None
    conditions: list[NodeCondition] | None = None
    images: list[NodeImage] | None = None


class Node(msgspec.Struct, frozen=True):
    """A node, as far as placement goes by it."""

    metadata: NodeMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class NodeList(msgspec.Struct, frozen=True):
    """All nodes."""

    items: list[Node]


class Placement:
    """Spreads boxes of ``cpus`` and ``memory_mb`` over nodes: those that hold the image first, then the emptiest.

    It knows what its own boxes take, and what it is told of (:meth:`taken`); a node that turns out to be full answers
    with a failed Pod, which is made again elsewhere.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        *,
        cpus: float,
        memory_mb: int,
        image: str = "",
        tolerations: Sequence[Mapping[str, str]] = (),
        selector: Mapping[str, str] | None = None,
    ) -> None:
        self._free: dict[str, int] = {}
        self._order: list[tuple[int, int, str]] = []
        self._rank: dict[str, int] = {}
        for node in nodes:
            if not _usable(node, tolerations, selector or {}):
                continue
            name = node.metadata.name
            self._free[name] = _room(node, cpus, memory_mb)
            held = any(image in (each.names or ()) for each in node.status.images or ())
            self._rank[name] = 0 if held else 1
            self._push(name)

    @property
    def free(self) -> int:
        """Boxes that still find room."""
        return sum(max(0, room) for room in self._free.values())

    def place(self) -> str:
        """The node of the next box; empty when all are full."""
        while self._order:
            _, room, name = heapq.heappop(self._order)
            if -room != self._free[name]:
                continue  # pushed before the node's room changed
            if self._free[name] <= 0:
                continue
            self._free[name] -= 1
            self._push(name)
            return name
        return ""

    def taken(self, node: str) -> None:
        """A box that somebody else placed, or we did earlier, is on ``node``."""
        if node in self._free:
            self._free[node] -= 1
            self._push(node)

    def gone(self, node: str) -> None:
        """A box has left ``node``."""
        if node in self._free:
            self._free[node] += 1
            self._push(node)

    def _push(self, name: str) -> None:
        heapq.heappush(self._order, (self._rank[name], -self._free[name], name))


def _usable(node: Node, tolerations: Sequence[Mapping[str, str]], selector: Mapping[str, str]) -> bool:
    labels = node.metadata.labels or {}
    ready = any(each.type == "Ready" and each.status == "True" for each in node.status.conditions or ())
    repelled = any(
        taint.effect != "PreferNoSchedule" and not any(_tolerates(each, taint) for each in tolerations)
        for taint in node.spec.taints or ()
    )
    wanted = all(labels.get(key) == value for key, value in selector.items())
    return ready and wanted and not repelled and not node.spec.unschedulable


def _tolerates(toleration: Mapping[str, str], taint: Taint) -> bool:
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.key)
    return toleration.get("key") == taint.key and toleration.get("value", "") == taint.value


def _room(node: Node, cpus: float, memory_mb: int) -> int:
    has = node.status.allocatable or {}
    memory = quantity(has.get("memory", "0")) / (memory_mb << 20)
    return int(min(quantity(has.get("cpu", "0")) / cpus, memory, quantity(has.get("pods", "110"))))


_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    """Kubernetes' ``500m``, ``2Gi``, ``1e3``. Raises ``ValueError``."""
    for unit in sorted(_UNITS, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * _UNITS[unit]
    return float(text)
