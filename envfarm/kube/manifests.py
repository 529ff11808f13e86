"""Manifests as pure functions: values in, dicts out. What the real admission says of them stands in ``tests/k8s``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

AGENT_PORT = 7700
AGENT_FOLDER = "/run/envfarm"
LABEL_RUN, LABEL_POOL, LABEL_SLOT = "envfarm.dev/run", "envfarm.dev/pool", "envfarm.dev/slot"
LABEL_OWNER = "envfarm.dev/owner"
MANAGED = {"app.kubernetes.io/managed-by": "envfarm", "app.kubernetes.io/name": "envfarm-box"}
_TOKEN = "ENVFARM_TOKEN"
_GRACE_SEC = 15
_UID = 61000
"""Of everything in a box; no user of any image we build."""


@dataclass(frozen=True)
class BoxShape:
    """What the Pods of a pool have in common."""

    image: str
    """With everything that tests need; the agent comes beside."""
    agent_image: str
    """Holds ``/envfarm-agent``."""
    cpus: float = 1.0
    memory_mb: int = 2048
    disk_mb: int = 1024
    """Of all writable areas together."""
    life_sec: float = 1800.0
    """The kubelet ends the Pod then, whoever has forgotten it."""
    heartbeat_sec: int = 60
    """The agent ends the box after so long without a word from the gateway."""
    runtime_class: str = ""
    priority_class: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: Sequence[Mapping[str, str]] = ()
    pull_policy: str = "IfNotPresent"
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    workdir: str = "/repo"


def box_pod(
    shape: BoxShape,
    *,
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    token: str,
    owner: Mapping[str, Any] | None = None,
    node: str = "",
) -> dict[str, Any]:
    """A box: it passes the *restricted* pod security, has no service account, and its root file system is read-only.

    ``owner`` is an owner reference: with that object gone, the cluster removes the Pod. ``node`` places it there past
    the scheduler.
    """
    # In memory, as on the other providers: full means full at once; on disk it would mean eviction some time later
    scratch = {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shape.disk_mb}Mi"}}
    agent = {"name": "agent", "emptyDir": {"sizeLimit": "32Mi"}}
    size = {"cpu": f"{round(shape.cpus * 1000)}m", "memory": f"{shape.memory_mb}Mi"}
    size["ephemeral-storage"] = "64Mi"
    box = {
        "name": "box",
        "image": shape.image,
        "imagePullPolicy": shape.pull_policy,
        "command": [
            f"{AGENT_FOLDER}/envfarm-agent", "serve", "--listen", f"tcp::{AGENT_PORT}",
            "--token-env", _TOKEN, "--deadline-sec", f"{shape.life_sec:g}",
            "--heartbeat-sec", str(shape.heartbeat_sec), "--drop-env", "KUBERNETES_",
        ],
        "workingDir": "/",
        "env": [
            {"name": _TOKEN, "value": token},
            *({"name": key, "value": value} for key, value in sorted(shape.environ.items())),
        ],
        "resources": {"limits": size, "requests": size},
        "securityContext": _confined(),
        "ports": [{"containerPort": AGENT_PORT, "name": "agent"}],
        "readinessProbe": {"tcpSocket": {"port": AGENT_PORT}, "periodSeconds": 1, "failureThreshold": 30},
        "volumeMounts": [
            {"name": "agent", "mountPath": AGENT_FOLDER, "readOnly": True},
            {"name": "scratch", "mountPath": "/dev/shm", "subPath": "shm"},
            *(
                {"name": "scratch", "mountPath": path, "subPath": part}
                for part, path in (("tmp", "/tmp"), ("home", "/home/box"), ("work", shape.workdir))
            ),
        ],
    }  # fmt: skip
    small = {"cpu": "50m", "memory": "32Mi", "ephemeral-storage": "64Mi"}
    install = {
        "name": "agent",
        "image": shape.agent_image,
        "imagePullPolicy": shape.pull_policy,
        "command": ["/envfarm-agent", "install", AGENT_FOLDER],
        "resources": {"limits": small, "requests": small},
        "securityContext": _confined(),
        "volumeMounts": [{"name": "agent", "mountPath": AGENT_FOLDER}],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # a restarted container would be a blank box under an old name
        "activeDeadlineSeconds": max(1, math.ceil(shape.life_sec)) + _GRACE_SEC,  # the agent ends it before
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostname": "box",
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": _UID, "runAsGroup": _UID, "fsGroup": _UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [install],
        "containers": [box],
        "volumes": [scratch, agent],
        "nodeSelector": dict(shape.node_selector),
        "tolerations": [dict(each) for each in shape.tolerations],
    }  # fmt: skip
    if shape.runtime_class:
        spec["runtimeClassName"] = shape.runtime_class
    if shape.priority_class:
        spec["priorityClassName"] = shape.priority_class
    if node:
        spec["nodeName"] = node
    meta: dict[str, Any] = {"name": name, "namespace": namespace, "labels": {**MANAGED, **labels}}
    if owner:
        meta["ownerReferences"] = [dict(owner)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _confined() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def namespace(name: str, run: str) -> dict[str, Any]:
    """A shard of a farm: every Pod in it must pass *restricted*."""
    labels = {
        **MANAGED,
        LABEL_RUN: run,
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def root_object(name: str, namespace: str, run: str) -> dict[str, Any]:
    """What owns every Pod of a run in a namespace: deleting it deletes them."""
    meta = {"name": name, "namespace": namespace, "labels": {**MANAGED, LABEL_RUN: run}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"run": run}}


def owner_reference(root: Mapping[str, Any]) -> dict[str, Any]:
    """To a root object as the server returned it, with its uid."""
    return {
        "apiVersion": root["apiVersion"], "kind": root["kind"], "name": root["metadata"]["name"],
        "uid": root["metadata"]["uid"], "controller": True, "blockOwnerDeletion": False,
    }  # fmt: skip


def closed_network(namespace: str, gateway: Mapping[str, str]) -> dict[str, Any]:
    """Boxes reach nothing; only what carries the ``gateway`` labels, in the namespace named by their
    ``kubernetes.io/metadata.name`` key if they hold it, reaches them, on the agent's port."""
    labels = dict(gateway)
    home = labels.pop("kubernetes.io/metadata.name", "")
    source: dict[str, Any] = {"podSelector": {"matchLabels": labels}}
    if home:
        source["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": home}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "envfarm-boxes", "namespace": namespace, "labels": MANAGED},
        "spec": {
            "podSelector": {"matchLabels": MANAGED},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [],
            "ingress": [{"from": [source], "ports": [{"protocol": "TCP", "port": AGENT_PORT}]}],
        },
    }
