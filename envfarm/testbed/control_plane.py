"""What runs in a bed, in order: command lines of the programs, and when each counts as started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .net import NODE_IP, SERVICES

SERVER = f"https://{NODE_IP}:6443"
_ETCD = "http://127.0.0.1:2379"


@dataclass(frozen=True)
class Program:
    """One process of a bed."""

    name: str
    argv: tuple[str, ...]
    ready: str = ""
    """URL that answers 200 once it is started; empty: nothing is waited for."""
    environ: dict[str, str] = field(default_factory=dict[str, str])
    after: tuple[tuple[str, ...], ...] = ()
    """Commands that must succeed before the next program is started; each is tried until it does."""


def control_plane(bed: Path, programs: Path) -> Iterator[Program]:
    """etcd, API server, controller manager, scheduler. ``bed/etcd`` is in memory."""
    pki = bed / "pki"
    go = {"GOGC": "400"}  # a fifth less CPU for twice the memory
    yield Program(
        "etcd",
        (
            f"{programs}/etcd", f"--data-dir={bed}/etcd", "--unsafe-no-fsync", "--quota-backend-bytes=8589934592",
            "--snapshot-count=100000", f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn",
        ),
        f"{_ETCD}/readyz",
        go,
    )  # fmt: skip
    yield Program("kube-apiserver", (f"{programs}/kube-apiserver", *_apiserver(pki)), f"{SERVER}/readyz", go)
    yield Program(
        "kube-controller-manager",
        (
            f"{programs}/kube-controller-manager", f"--kubeconfig={bed}/manager.kubeconfig",
            "--use-service-account-credentials=true", "--leader-elect=false", "--kube-api-qps=1000",
            "--kube-api-burst=2000", f"--root-ca-file={pki}/ca.crt", "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={pki}/sa.key",
        ),
        environ=go,
    )  # fmt: skip
    scheduler = bed / "scheduler.json"
    scheduler.write_text(
        json.dumps(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": f"{bed}/scheduler.kubeconfig", "qps": 2000, "burst": 4000},
                "leaderElection": {"leaderElect": False},
                "parallelism": 2,
            }
        )
    )
    argv = (f"{programs}/kube-scheduler", f"--config={scheduler}", "--bind-address=127.0.0.1")
    yield Program("kube-scheduler", argv, environ=go)


def _apiserver(pki: Path) -> Iterator[str]:
    yield f"--etcd-servers={_ETCD}"
    yield f"--advertise-address={NODE_IP}"
    yield f"--service-cluster-ip-range={SERVICES}"
    yield "--authorization-mode=Node,RBAC"
    # added to the defaults, among which are PodSecurity, ValidatingAdmissionPolicy, ResourceQuota, LimitRanger
    yield "--enable-admission-plugins=NodeRestriction"
    yield "--allow-privileged=true"  # as clusters have it: pod security is what refuses
    yield f"--token-auth-file={pki}/tokens.csv"
    for flag, name in (
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("requestheader-client-ca-file", "ca.crt"),
        ("kubelet-client-certificate", "kubelet-client.crt"),
        ("kubelet-client-key", "kubelet-client.key"),
        ("kubelet-certificate-authority", "ca.crt"),
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
    ):
        yield f"--{flag}={pki / name}"
    yield "--service-account-issuer=https://kubernetes.default.svc"
    yield "--requestheader-allowed-names=front-proxy"  # nobody has such a certificate
    yield "--requestheader-username-headers=X-Remote-User"
    yield "--requestheader-group-headers=X-Remote-Group"
    yield "--requestheader-extra-headers-prefix=X-Remote-Extra-"
    yield "--event-ttl=10m"
