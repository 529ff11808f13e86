"""``Informer``: all Pods of a selection, kept equal to the server's by list and watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from envfarm.core.errors import ClusterError, Reason

from .client import KubeClient
from .errors import Status, StatusEvent
from .slim import Pod, PodEvent, PodList

log = logging.getLogger(__name__)

Change = Callable[[Pod | None, Pod | None], None]
"""Called with a Pod as it was and as it is; None where it was not, or is no more."""

_LIST = msgspec.json.Decoder(PodList)
_EVENT = msgspec.json.Decoder(PodEvent)
_STATUS = msgspec.json.Decoder(StatusEvent)
_WATCH_SEC = 290
"""The server ends a watch then; it goes on from where it was."""
_STALL_SEC = 75.0
"""Bookmarks come about once a minute: a watch that is silent for longer hangs."""
_BACKOFF_SEC = 0.2, 10.0


class Informer:
    """An async context manager: entered, it holds the list; left, its watch is gone.

    ``path`` is a collection (``/api/v1/namespaces/ns/pods``). Every change is told once and in order: what a relist
    finds gone is told as a deletion, also where the watch missed it. After a failure the watch resumes from the last
    version seen; only where the server has forgotten that one (410) is everything listed again.
    """

    def __init__(
        self, client: KubeClient, path: str, *, selector: str = "", on_change: Change = lambda was, now: None,
        stall_sec: float = _STALL_SEC,
    ) -> None:  # fmt: skip
        self._client, self._path = client, path
        self._query: dict[str, str] = {"labelSelector": selector} if selector else {}
        self._tell = on_change
        self._stall_sec = stall_sec
        self.pods: dict[str, Pod] = {}
        """By ``namespace/name``."""
        self.version = ""
        self.lists = 0
        """How often everything was listed."""
        self.resumed = 0
        """How often a watch was opened again from the last version."""
        self.failure: ClusterError | None = None
        """Why there is no watch at this moment."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if not self.version:
            await self.relist()
        self._task = asyncio.create_task(self._run(), name=f"watch {self._path}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def relist(self) -> None:
        """List everything and tell what differs from what was known. Raises ``ClusterError``."""
        # from the server's cache, at its newest version: a consistent list, and cheap
        data = await self._client.call("GET", self._path, what=self._what("list"), query=self._query, timeout_sec=120)
        found = _LIST.decode(data)
        fresh = {_key(pod): pod for pod in found.items}
        gone = {key: pod for key, pod in self.pods.items() if key not in fresh}
        self.version = found.metadata.resourceVersion
        self.lists += 1
        for key, pod in gone.items():
            del self.pods[key]
            self._tell(pod, None)
        for key, pod in fresh.items():
            self._set(key, pod)

    async def _run(self) -> None:
        low, high = _BACKOFF_SEC
        wait_sec = low
        while True:
            since = self.version
            try:
                if not self.version:
                    await self.relist()
                await self._watch()
                self.failure, wait_sec = None, low
            except ClusterError as error:  # a retry: the informer lives as long as its owner
                if error.code == 410:
                    self.version = ""
                    continue
                if self.version != since:
                    wait_sec = low  # it went well for a while
                if self.failure is None:
                    log.warning("watch of %s: %s", self._path, error)
                self.failure = error
                await asyncio.sleep(wait_sec * (0.5 + random.random()))
                wait_sec = min(high, 2 * wait_sec)
            self.resumed += bool(self.version)

    async def _watch(self) -> None:
        query = {
            **self._query, "watch": "1", "resourceVersion": self.version, "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SEC),
        }  # fmt: skip
        async with self._client.stream(self._path, what=self._what("watch"), query=query) as content:
            self.failure = None
            rest = b""
            while True:
                async with asyncio.timeout(self._stall_sec):
                    chunk = await content.readany()
                if not chunk:
                    return
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    try:
                        event = _EVENT.decode(line)
                    except msgspec.ValidationError:  # no Pod: the server says why it ends the watch
                        raise self._ended(line) from None
                    self._event(event)

    def _ended(self, line: bytes) -> ClusterError:
        try:
            status = _STATUS.decode(line).object
        except msgspec.DecodeError:  # what a proxy may write into a stream
            status = Status(line[:200].decode(errors="replace"))
        reason = Reason.expired if status.code == 410 else Reason.cluster_failed
        return ClusterError(
            f"The watch of {self._path} was ended: {status.message}.", reason=reason, phase="watch", code=status.code
        )

    def _event(self, event: PodEvent) -> None:
        pod = event.object
        self.version = pod.metadata.resourceVersion
        if event.type == "BOOKMARK":
            return
        key = _key(pod)
        if event.type == "DELETED":
            was = self.pods.pop(key, None)
            self._tell(was or pod, None)
        else:
            self._set(key, pod)

    def _set(self, key: str, pod: Pod) -> None:
        was = self.pods.get(key)
        if was is not None and was.metadata.uid != pod.metadata.uid:
            self._tell(was, None)  # its end was missed: another has its name
            was = None
        elif was is not None and was.metadata.resourceVersion == pod.metadata.resourceVersion:
            return
        self.pods[key] = pod
        self._tell(was, pod)

    def _what(self, verb: str) -> str:
        return f"{verb} pods at {self._path}"


def _key(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
