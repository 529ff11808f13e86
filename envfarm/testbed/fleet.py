"""The ``fleet`` shape: nodes that KWOK simulates. Their Pods get ready at once, have an address, and run nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .control_plane import Program

NODES = 100
PODS_EACH = 250
"""More than a real node takes, so that a hundred hold 20,000."""
TAINT = "envfarm.test/simulated"
LABEL = "envfarm.test/shape"


def simulated_nodes(bed: Path, programs: Path) -> Iterator[Program]:
    """KWOK itself. The nodes are made through the API, by :func:`node`."""
    config = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {"podPlayStageParallelism": 16, "nodePlayStageParallelism": 4, "nodeLeaseParallelism": 4},
    }
    (bed / "kwok.yaml").write_text("\n---\n".join(json.dumps(each) for each in (config, *stages())))
    yield Program(
        "kwok",
        (
            f"{programs}/kwok", f"--kubeconfig={bed}/kwok.kubeconfig", f"--config={bed}/kwok.yaml",
            "--manage-all-nodes=false", f"--manage-nodes-with-label-selector={LABEL}=fleet",
            "--node-lease-duration-seconds=120", "--server-address=127.0.0.1:10247", "--cidr=10.128.0.0/12",
        ),
        "http://127.0.0.1:10247/healthz",
        {"GOGC": "400"},
    )  # fmt: skip


def node(index: int) -> dict[str, Any]:
    """Of the fleet. Its taint keeps Pods away that ought to run."""
    name = f"fleet-{index:03d}"
    labels = {LABEL: "fleet", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    size = {"cpu": "256", "memory": "1Ti", "pods": str(PODS_EACH), "ephemeral-storage": "4Ti"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [{"key": TAINT, "value": "true", "effect": "NoSchedule"}]},
        "status": {"allocatable": size, "capacity": size},
    }  # fmt: skip


def stages() -> Iterator[dict[str, Any]]:
    """What KWOK does to nodes and Pods; it has no behaviour of its own."""
    gone = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    there = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    yield _stage("Node", "node-start", [{"key": ready, "operator": "NotIn", "values": ["True"]}], _NODE)
    beating = [{"key": ready, "operator": "In", "values": ["True"]}]
    yield _stage(
        "Node", "node-beat", beating, _NODE, {"durationMilliseconds": 600_000, "jitterDurationMilliseconds": 610_000}
    )
    pending = {"key": ".status.phase", "operator": "In", "values": ["Pending"]}
    yield _stage("Pod", "pod-start", [there, pending, {"key": ready, "operator": "NotIn", "values": ["True"]}], _POD)
    yield _stage("Pod", "pod-end", [gone], None)


def _stage(
    kind: str, name: str, when: list[dict[str, Any]], status: str | None, delay: dict[str, int] | None = None
) -> dict[str, Any]:
    then: dict[str, Any] = {"delete": True} if status is None else {"statusTemplate": status}
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": then,
            **({"delay": delay} if delay else {}),
        },
    }


_NODE = """
{{ $now := Now }}
phase: Running
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
addresses:
- {type: Hostname, address: {{ NodeName | Quote }}}
"""

_POD = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
{{ $ips := PodIPsWith .spec.nodeName false ( or .metadata.uid "" ) ( or .metadata.name "" ) .metadata.namespace }}
{{ with $ips }}
podIP: {{ index . 0 | Quote }}
podIPs: [{ip: {{ index . 0 | Quote }}}]
{{ end }}
"""
