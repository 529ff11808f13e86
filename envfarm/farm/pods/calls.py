"""The calls that change a cluster: making a box, and ending one, until the outcome is certain."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from envfarm.core.errors import ClusterError, Reason
from envfarm.kube.client import KubeClient
from envfarm.kube.manifests import LABEL_RUN
from envfarm.kube.slim import Pod

_POD = msgspec.json.Decoder(Pod)
T = TypeVar("T")
_BACKOFF_SEC = 0.1, 5.0
_COMING_UP = 8
"""Tries of a call without which a controller cannot begin."""


def token_of(secret: str, pod: str) -> str:
    """Of the agent in a box: it follows from the name, so that whoever takes the farm over can still call in."""
    return hmac.new(secret.encode(), pod.encode(), hashlib.sha256).hexdigest()[:40]


async def insist(call: Callable[[], Awaitable[T]], *, tries: int = 0) -> T:
    """What ``call`` gives, made again until its outcome is certain: after a lost answer, and after a failure of the
    server (5xx). It must be one that may be repeated. With ``tries`` the last failure is raised in the end.

    Raises ``ClusterError`` for a refusal."""
    low, high = _BACKOFF_SEC
    wait_sec, made = low, 0
    while True:
        try:
            return await call()
        except ClusterError as error:  # a retry
            made += 1
            if 0 < error.code < 500 or made == tries:
                raise
        await asyncio.sleep(wait_sec * (0.5 + random.random()))
        wait_sec = min(high, 2 * wait_sec)


async def create(client: KubeClient, namespace: str, name: str, run: str, body: bytes) -> Pod:
    """Make the Pod, or find that it is made. An answer that was lost says nothing, so the call is made again under the
    same name: at worst it conflicts with itself, and what is there is adopted.

    Raises ``ClusterError`` for a refusal that is certain."""
    path, what = f"/api/v1/namespaces/{namespace}/pods", f"create pods in {namespace}"
    while True:
        try:
            return _POD.decode(await insist(lambda: client.call("POST", path, what=what, body=body)))
        except ClusterError as error:
            if error.status != "AlreadyExists":
                raise
            found = await look(client, namespace, name)
            if found is not None and (found.metadata.labels or {}).get(LABEL_RUN) == run:
                return found
            if found is not None:
                raise
            # it was there and is gone: the name is free again


async def look(client: KubeClient, namespace: str, name: str) -> Pod | None:
    """The Pod as the server has it now; None where it has none. Raises ``ClusterError``."""
    path, what = f"/api/v1/namespaces/{namespace}/pods/{name}", f"get pods in {namespace}"
    try:
        return _POD.decode(await insist(lambda: client.call("GET", path, what=what)))
    except ClusterError as error:
        if error.code == 404:
            return None
        raise


async def end(client: KubeClient, namespace: str, name: str) -> None:
    """Ask for the Pod's end until the server has heard. One that is gone is no error.

    Raises ``ClusterError`` for a refusal that is certain: a missing permission."""
    path, what = f"/api/v1/namespaces/{namespace}/pods/{name}", f"delete pods in {namespace}"
    body = b'{"gracePeriodSeconds":1}'
    try:
        await insist(lambda: client.call("DELETE", path, what=what, body=body))
    except ClusterError as error:
        if error.code != 404:
            raise


async def ensure(client: KubeClient, path: str, body: bytes, what: str) -> None:
    """Make an object that may be there already. Raises ``ClusterError``."""
    try:
        await insist(lambda: client.call("POST", path, what=what, body=body), tries=_COMING_UP)
    except ClusterError as error:
        if error.status != "AlreadyExists":
            raise


async def fetch(client: KubeClient, path: str, what: str) -> bytes:
    """The body of an object or a list. Raises ``ClusterError``."""
    return await insist(lambda: client.call("GET", path, what=what), tries=_COMING_UP)


def reason_of(error: ClusterError) -> Reason:
    """What a refused create means to those who wait for a box."""
    return error.reason if error.reason in (Reason.quota, Reason.forbidden, Reason.invalid) else Reason.node
