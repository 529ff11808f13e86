"""The read-only system root of a box: the host's programs, a small ``/etc`` of our own, no Python packages.

What is installed on the host for Python would otherwise be importable in a box: a later release of the very package a
task is about is an answer to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

from .command import BOX_HOME, BOX_UID

_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_HIDDEN = (
    "/usr/lib/python*/dist-packages", "/usr/lib/python*/site-packages", "/usr/lib/pypy*/dist-packages",
    "/usr/lib64/python*/site-packages", "/usr/local/lib/python*/dist-packages",
    "/usr/local/lib/python*/site-packages", "/usr/local/lib64/python*/site-packages", "/usr/src", "/usr/local/src",
)  # fmt: skip
_COPIED = ("services", "protocols", "mime.types", "ld.so.conf")
"""Files of the host's ``/etc`` that programs look things up in and that say nothing about the host. Not its time zone:
boxes run in UTC."""
ETC_FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nbox:x:{BOX_UID}:{BOX_UID}:box:{BOX_HOME}:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "group": f"root:x:0:\nbox:x:{BOX_UID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost box\n::1 localhost\n",
    "hostname": "box\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "resolv.conf": "",
    "os-release": "",
    "ld.so.cache": "",
}


def system_root(empty: Path, etc: Path) -> tuple[str, ...]:
    """bubblewrap arguments that lay out everything but scratch areas, layers and mounts."""
    args = ["--ro-bind", "/usr", "/usr"]
    for name in _LINKS:
        path = Path("/") / name
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()).lstrip("/"), str(path)]
        elif path.is_dir():
            args += ["--ro-bind", str(path), str(path)]
    for path in hidden_paths():
        args += ["--ro-bind", str(empty), str(path)]
    args += ["--ro-bind", str(etc), "/etc"]
    for name in ("alternatives", "ld.so.cache", "os-release"):
        if (Path("/etc") / name).exists():
            args += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return (*args, "--perms", "0755", "--dir", "/var", "--symlink", "../tmp", "/var/tmp")


def hidden_paths() -> list[Path]:
    """Host folders that an empty one is laid over."""
    return sorted({path for pattern in _HIDDEN for path in Path("/").glob(pattern.lstrip("/")) if path.is_dir()})


def install_etc(home: Path) -> Path:
    """Write the boxes' ``/etc`` once below ``<home>/bin``; the folder's name is the hash of its content."""
    files = {name: text.encode() for name, text in ETC_FILES.items()}
    for name in _COPIED:
        with contextlib.suppress(OSError):  # a host need not have it
            files[name] = (Path("/etc") / name).read_bytes()
    content = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    target = home / "bin" / f"etc-{content}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for name in ("alternatives", "ssl", "ssl/certs", "uv"):  # mount points
            (staging / name).mkdir()
        for name in ("pip.conf", "uv/uv.toml", *files):
            (staging / name).write_bytes(files.get(name, b""))
            (staging / name).chmod(0o644)
        for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():  # else another process was faster
            raise
    return target
