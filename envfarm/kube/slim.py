"""The few fields of objects that we read: a slim structure takes a third of the time and memory of a typed client's."""

from __future__ import annotations

import msgspec


class Meta(msgspec.Struct, frozen=True):
    """Of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    creationTimestamp: str = ""
    deletionTimestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Condition(msgspec.Struct, frozen=True):
    """Of a Pod or a node."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Waiting(msgspec.Struct, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class Terminated(msgspec.Struct, frozen=True):
    """How a container ended."""

    exitCode: int = 0
    reason: str = ""
    message: str = ""


class State(msgspec.Struct, frozen=True):
    """Of a container: at most one is there."""

    waiting: Waiting | None = None
    terminated: Terminated | None = None


class Container(msgspec.Struct, frozen=True):
    """A container's status."""

    name: str
    restartCount: int = 0
    state: State | None = None


class PodSpec(msgspec.Struct, frozen=True):
    """Where it was placed."""

    nodeName: str = ""
    activeDeadlineSeconds: int = 0


class PodStatus(msgspec.Struct, frozen=True):
    """Lists can be null, not only absent."""

    phase: str = ""
    podIP: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] | None = None
    containerStatuses: list[Container] | None = None
    initContainerStatuses: list[Container] | None = None


class Pod(msgspec.Struct, frozen=True):
    """A Pod."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def ready(self) -> bool:
        """Its containers answer."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions or ())

    @property
    def ended(self) -> bool:
        """It runs no more, or is about to."""
        return self.metadata.deletionTimestamp is not None or self.status.phase in ("Succeeded", "Failed")


class ListMeta(msgspec.Struct, frozen=True):
    """Of a list."""

    resourceVersion: str = ""


class PodList(msgspec.Struct, frozen=True):
    """Pods at one version of the store."""

    metadata: ListMeta
    items: list[Pod]


class PodEvent(msgspec.Struct, frozen=True):
    """A line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK, ERROR."""

    type: str
    object: Pod
