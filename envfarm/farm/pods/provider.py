"""The ``kubernetes`` provider: a box is a Pod of its own, reached straight at its address."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import secrets
from collections.abc import Coroutine
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import msgspec

from envfarm.core.box import BoxInfo, BoxSpec, Network
from envfarm.core.config import KubernetesProviderConfig
from envfarm.core.errors import ClusterError, EnvfarmError, ProviderError, Reason
from envfarm.core.ports import Capabilities, Sandbox
from envfarm.kube import manifests
from envfarm.kube.client import KubeClient
from envfarm.kube.cluster import Cluster
from envfarm.kube.informer import Informer
from envfarm.kube.manifests import AGENT_PORT, LABEL_OWNER, LABEL_RUN, BoxShape
from envfarm.kube.slim import Pod, PodList

from . import calls
from .events import evidence
from .pool import image_failure
from .sandbox import PodSandbox

_LIST = msgspec.json.Decoder(PodList)
_BEAT_SEC = 15.0
_HEARTBEAT_SEC = 60
_END_SEC = 30.0
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class KubernetesProvider:
    """Satisfies ``envfarm.core.ports.SandboxProvider``; an async context manager.

    Boxes that outlive us end by themselves: the agent when nobody has called for a minute, the kubelet at the box's
    deadline.
    """

    name = "kubernetes"

    def __init__(self, cluster: Cluster, config: KubernetesProviderConfig) -> None:
        self._config = config
        self._client = KubeClient(cluster)
        self._run = f"p{secrets.token_hex(5)}"
        self._path = f"/api/v1/namespaces/{config.namespace}/pods"
        self._open = contextlib.AsyncExitStack()
        self._live: dict[str, PodSandbox] = {}
        self._told = asyncio.Event()
        self._informer = Informer(
            self._client, self._path, selector=f"{LABEL_RUN}={self._run}", on_change=lambda was, now: self._told.set()
        )
        self._secret = secrets.token_hex(32)

    async def __aenter__(self) -> Self:
        """Connect, make the namespace where it is missing. Raises ``ClusterError``."""
        try:
            await self._open.enter_async_context(self._client)
            body = msgspec.json.encode(manifests.namespace(self._config.namespace, self._run))
            await calls.ensure(self._client, "/api/v1/namespaces", body, "create namespaces")
            await self._account()
            await self._open.enter_async_context(self._informer)
            beating = asyncio.create_task(self._beat(), name="heartbeats")
            self._open.push_async_callback(_cancelled, beating)
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release every box. Finishes even if cancelled."""
        await asyncio.shield(self._leave())

    async def _leave(self) -> None:
        try:
            await asyncio.gather(*(self.release(box) for box in list(self._live.values())))
        finally:
            await self._open.aclose()

    async def _account(self) -> None:
        """A new namespace has its default service account, without which no Pod is admitted, only after a moment."""
        path = f"/api/v1/namespaces/{self._config.namespace}/serviceaccounts/default"
        for _ in range(100):
            with contextlib.suppress(ClusterError):  # not yet; the first Pod says it if it never comes
                await self._client.call("GET", path, what="get serviceaccounts")
                return
            await asyncio.sleep(0.05)

    def capabilities(self) -> Capabilities:
        """Limits on processes are the kubelet's (``podPidsLimit``), equal for all Pods of a node."""
        note = "limits on processes are the node's: podPidsLimit of its kubelet"
        return Capabilities(mounts=False, pids_limit=self._config.pids_limited, network_none=False, notes=(note,))

    async def acquire(self, spec: BoxSpec) -> Sandbox:
        """See the port. The box's agent listens when this returns."""
        shape = self._shape(spec)
        name = f"box-{secrets.token_hex(6)}"
        token = calls.token_of(self._secret, name)
        labels = {LABEL_RUN: self._run, LABEL_OWNER: _label(spec.owner)}
        body = msgspec.json.encode(
            manifests.box_pod(shape, name=name, namespace=self._config.namespace, labels=labels, token=token)
        )
        try:
            made = await calls.create(self._client, self._config.namespace, name, self._run, body)
            pod = await self._ready(name, made)
        except BaseException as error:
            await asyncio.shield(self._quietly_end(name))
            if isinstance(error, ClusterError):
                raise _start_failure(error) from error
            raise
        connect = functools.partial(asyncio.open_connection, pod.status.podIP, AGENT_PORT)
        box = PodSandbox(name, connect, token, spec.limits, functools.partial(self._pod, name))
        self._live[name] = box
        return box

    async def release(self, sandbox: Sandbox) -> None:
        """See the port: the agent ends what runs at once, then the Pod is deleted and waited for."""
        box = self._live.pop(sandbox.id, None)
        if box is not None:
            with contextlib.suppress(
                EnvfarmError
            ):  # it has ended already, or cannot be reached: the Pod's end is certain
                await box.shutdown()
        await asyncio.shield(self._end(sandbox.id))

    async def list(self, owner: str | None = None) -> list[BoxInfo]:
        """See the port: boxes of the namespace, whoever started them."""
        chosen = f"{LABEL_OWNER}={_label(owner)}" if owner else LABEL_OWNER
        data = await self._client.call("GET", self._path, what="list pods", query={"labelSelector": chosen})
        return [self._info(pod) for pod in _LIST.decode(data).items if pod.metadata.deletionTimestamp is None]

    def _info(self, pod: Pod) -> BoxInfo:
        created = datetime.fromisoformat(pod.metadata.creationTimestamp)
        life = timedelta(seconds=pod.spec.activeDeadlineSeconds)
        owner = (pod.metadata.labels or {}).get(LABEL_OWNER, "")
        return BoxInfo(
            id=pod.metadata.name, owner=owner, provider=self.name, created_at=created,
            deadline_at=created + life if life else None, alive=not pod.ended,
        )  # fmt: skip

    def _shape(self, spec: BoxSpec) -> BoxShape:
        if spec.mounts:
            raise _refused(
                "A box on a cluster takes no mounts of this machine.", "Put what it needs through the agent."
            )
        if spec.network is not Network.none:
            raise _refused("A box on a cluster has no way out.", "Build environments on another provider.")
        image = self._config.image_of(spec.environment.digest if spec.environment else "")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = {"PATH": path, "HOME": "/home/box", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
        limits = spec.limits
        return BoxShape(
            image=image, agent_image=self._config.agent_image, cpus=limits.cpus, memory_mb=limits.memory_mb,
            disk_mb=limits.disk_mb, life_sec=limits.wall_sec, heartbeat_sec=_HEARTBEAT_SEC,
            runtime_class=self._config.runtime_class, environ={**clean, **spec.env}, workdir=spec.workdir,
            pull_policy=self._config.pull_policy,
        )  # fmt: skip

    def _pod(self, name: str) -> Pod | None:
        return self._informer.pods.get(f"{self._config.namespace}/{name}")

    async def _ready(self, name: str, made: Pod) -> Pod:
        pod: Pod | None = made
        try:
            async with asyncio.timeout(self._config.start_sec):
                while pod is None or not pod.ready:
                    if pod is not None and pod.ended:
                        raise _failed(f"its Pod ended: {evidence(pod)}. {pod.status.message}")
                    if pod is not None and (failure := image_failure(pod)):
                        raise _failed(f"its image cannot be had: {failure}", Reason.image)
                    self._told.clear()
                    await self._told.wait()
                    pod = self._pod(name)
        except TimeoutError:
            raise _failed(
                f"it was not ready within {self._config.start_sec:g} s{_waiting_for(pod)}", Reason.timeout
            ) from None
        return pod

    async def _quietly_end(self, name: str) -> None:
        with contextlib.suppress(EnvfarmError):  # what went wrong before is told; the box's heartbeat ends it anyway
            await self._end(name)

    async def _end(self, name: str) -> None:
        await calls.end(self._client, self._config.namespace, name)
        with contextlib.suppress(TimeoutError):  # its end is certain; only the node takes long
            async with asyncio.timeout(_END_SEC):
                while self._pod(name) is not None:
                    self._told.clear()
                    await self._told.wait()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_SEC)
            beats: list[Coroutine[Any, Any, None]] = [box.beat() for box in self._live.values()]
            await asyncio.gather(*beats, return_exceptions=True)  # one that is lost tells whoever uses it


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _label(owner: str) -> str:
    if not _PLAIN_LABEL.fullmatch(owner):
        raise _refused(f"The owner {owner!r} cannot be a label.", "Use letters, digits, dashes, dots; 63 at most.")
    return owner


def _waiting_for(pod: Pod | None) -> str:
    found = [
        each.message for each in (pod.status.conditions or () if pod else ()) if each.status == "False" and each.message
    ]
    return f": {found[0]}" if found else ""


def _start_failure(error: ClusterError) -> ProviderError:
    return ProviderError(
        f"No box could be started: {error.message}", reason=error.reason, phase="start", remedy=error.remedy,
        retryable=error.retryable, detail=error.detail,
    )  # fmt: skip


def _failed(why: str, reason: Reason = Reason.box_start_failed) -> ProviderError:
    return ProviderError(
        f"No box could be started: {why}".rstrip(". ") + ".", reason=reason, phase="start", retryable=True
    )


def _refused(message: str, remedy: str) -> ProviderError:
    return ProviderError(message, reason=Reason.config, phase="start", remedy=remedy)
