"""From what is asked of a box to its command line: checks the request and resolves host paths."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envfarm.core.box import BoxSpec, Network
from envfarm.core.environment import ENV_DIR
from envfarm.core.errors import ProviderError, Reason

from .binaries import Binaries
from .command import AGENT_FD, BOX_HOME, Bind, BoxPlan
from .network import registry_access
from .reach import Reach

_RESERVED = ("/usr", "/etc", "/proc", "/dev", "/sys", "/bin", "/sbin", "/lib", "/lib64", "/run")
"""Where nothing of a caller's may be mounted, nor below it: it is what a box trusts."""
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Host:
    """What stays the same for all boxes of a provider."""

    home: Path
    binaries: Binaries
    root: tuple[str, ...]
    reach: Reach
    seccomp: bytes | None


def plan_box(spec: BoxSpec, host: Host, *, detached: bool = False, environ: Mapping[str, str] = os.environ) -> BoxPlan:
    """The plan of a box for ``spec``. Raises ``ProviderError`` (config) that names what cannot be used."""
    binds = [*_layers(spec, host), *_mounts(spec, host)]
    env = {
        "PATH": _search_path(binds),
        "HOME": BOX_HOME,
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
    }
    share_net = spec.network is Network.registry
    if share_net:
        access, variables = registry_access(environ, host.reach.can)
        binds = [*access, *binds]
        env |= variables
    env |= spec.env
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise _refused(f"Environment variable {name!r} cannot be set in a box.", "Correct its name or value.")
    return BoxPlan(
        bwrap=host.binaries.bwrap,
        agent=host.binaries.agent,
        agent_args=("serve", "--listen-fd", str(AGENT_FD), "--deadline-sec", f"{spec.limits.wall_sec:g}"),
        root=host.root,
        binds=tuple(binds),
        workdir=_target(spec.workdir),
        scratch_bytes=spec.limits.disk_mb << 20,
        env=env,
        share_net=share_net,
        seccomp=host.seccomp is not None,
        die_with_parent=not detached,
    )


def _layers(spec: BoxSpec, host: Host) -> list[Bind]:
    binds: list[Bind] = []
    for layer in spec.environment.layers if spec.environment else ():
        source = host.home / layer.source
        if layer.source.startswith("/") or ".." in Path(layer.source).parts:
            raise _refused(
                f"Environment layer {layer.source!r} is not a path below the home folder.",
                "Build the environment again.",
            )
        host.reach.require(source, "Environment layer")
        binds.append(Bind(str(source), _target(layer.target), scratch_overlay=spec.writable_env))
    return binds


def _mounts(spec: BoxSpec, host: Host) -> list[Bind]:
    binds: list[Bind] = []
    for mount in spec.mounts:
        source = Path(mount.source)
        if not source.is_absolute():
            raise _refused(f"Mount source {mount.source!r} is not an absolute path.", "Give the whole path.")
        host.reach.require(source, "Mount source")
        binds.append(Bind(str(source), _target(mount.target), read_only=mount.read_only))
    return binds


def _target(path: str) -> str:
    clean = posixpath.normpath(path) if path.startswith("/") and "\0" not in path else ""
    if clean in ("", "/", "//"):
        raise _refused(f"{path!r} is not an absolute path in a box.", "Use one such as /repo or /env.")
    if any(clean == place or clean.startswith(place + "/") for place in _RESERVED):
        raise _refused(f"{path} belongs to the box's system.", "Use a place such as /repo, /env or /opt/toolchain.")
    return clean


def _search_path(binds: list[Bind]) -> str:
    # A mount at ENV_DIR may be about to be filled.
    folders = [f"{b.target}/bin" for b in binds if b.target == ENV_DIR or (Path(b.source) / "bin").is_dir()]
    # An environment's programs come before its toolchain's, both before the system's.
    folders.sort(key=lambda folder: folder.startswith("/opt/"))
    return ":".join([*dict.fromkeys(folders), _PATH])


def _refused(message: str, remedy: str) -> ProviderError:
    return ProviderError(message, reason=Reason.config, phase="start", remedy=remedy)
