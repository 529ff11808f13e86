"""The ``node`` shape: a real kubelet with containerd, runc and Debian's CNI plug-ins. Its Pods run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .control_plane import Program
from .images import image, layer_of
from .net import NODE_IP, PODS

NODE = "node-0"
PAUSE = "envfarm.test/pause:1"
CNI = Path("/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")


def cgroup_of(bed: Path) -> str:
    """The cgroup that holds everything of a bed's Pods, below each controller's root."""
    return f"envfarm-testbed-{bed.name}"


def import_command(bed: Path, tar: str) -> list[str]:
    """Gives the node an image; to be run inside the bed."""
    return ["ctr", f"--address={bed}/run/containerd.sock", "--namespace=k8s.io", "images", "import", tar]


def remove_cgroups(bed: Path) -> None:
    """What an ended bed leaves: empty cgroups, deepest first. A bed without any is no error."""
    for controller in CGROUPS.iterdir() if CGROUPS.is_dir() else ():
        top = controller / cgroup_of(bed)
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):  # its processes may take a moment more; the next sweep finds it
                Path(folder).rmdir()


def real_node(bed: Path, programs: Path) -> Iterator[Program]:
    """containerd, which gets the pause image; kubelet; kube-proxy."""
    for name in ("run", "containerd", "kubelet", "pods", "cni"):
        (bed / name).mkdir()
    for controller in CGROUPS.iterdir():
        if controller.is_dir() and not controller.is_symlink():
            (controller / cgroup_of(bed)).mkdir(exist_ok=True)
    (bed / "cni" / "10-bed.conflist").write_text(json.dumps(_network(bed)))
    (bed / "containerd.toml").write_text(_containerd(bed))
    address = f"{bed}/run/containerd.sock"
    pause = bed / "pause.tar"
    pause.write_bytes(image(PAUSE, [layer_of({"pause": programs / "pause"})], entrypoint=["/pause"]))
    load = tuple(import_command(bed, str(pause)))
    yield Program("containerd", (f"{programs}/containerd", f"--config={bed}/containerd.toml"), after=(load,))
    (bed / "kubelet.json").write_text(json.dumps(_kubelet(bed, address)))
    yield Program(
        "kubelet",
        (
            f"{programs}/kubelet", f"--config={bed}/kubelet.json", f"--kubeconfig={bed}/node.kubeconfig",
            f"--hostname-override={NODE}", f"--node-ip={NODE_IP}", f"--root-dir={bed}/kubelet",
        ),
        "http://127.0.0.1:10248/healthz",
    )  # fmt: skip
    (bed / "proxy.json").write_text(json.dumps(_proxy(bed)))
    yield Program(
        "kube-proxy", (f"{programs}/kube-proxy", f"--config={bed}/proxy.json"), "http://127.0.0.1:10256/livez"
    )


def _network(bed: Path) -> dict[str, Any]:
    addresses = {
        "type": "host-local", "dataDir": f"{bed}/addresses", "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }  # fmt: skip
    return {
        "cniVersion": "1.0.0",
        "name": "bed",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
                "ipam": addresses,
            }
        ],
    }  # fmt: skip


def _containerd(bed: Path) -> str:
    return f"""version = 3
root = "{bed}/containerd"
state = "{bed}/run/containerd"
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{bed}/run/containerd.sock"
[plugins."io.containerd.cri.v1.runtime"]
# root may lack CAP_SYS_RESOURCE, without which no process can be spared by the kernel's OOM killer
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{CNI}"]
conf_dir = "{bed}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
"""


def _kubelet(bed: Path, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{bed}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{bed}/pki/kubelet.crt",
        "tlsPrivateKeyFile": f"{bed}/pki/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{address}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup_of(bed)}",
        "failCgroupV1": False,
        "podPidsLimit": 256,
        "failSwapOn": False,
        "enforceNodeAllocatable": ["pods"],
        "resolvConf": "",
        "podLogsDir": f"{bed}/pods",
        "registerNode": True,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "serializeImagePulls": False,
    }  # fmt: skip


def _proxy(bed: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{bed}/proxy.kubeconfig"},
        "mode": "iptables",
        "hostnameOverride": NODE,
        "clusterCIDR": PODS,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
