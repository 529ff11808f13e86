"""Images without a registry: an OCI layout as one tar, from files alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def layer_of(files: Mapping[str, bytes | Path], links: Mapping[str, str] | None = None) -> bytes:
    """A tar of programs and their like: every file is root's and may be run. Equal files give equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in sorted(files.items()):
            data = content if isinstance(content, bytes) else content.read_bytes()
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
        for path, target in sorted((links or {}).items()):
            info = tarfile.TarInfo(path.lstrip("/"))
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for path in ("tmp", "run"):
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            tar.addfile(info)
    return out.getvalue()


def image(
    name: str,
    layers: Sequence[bytes],
    *,
    entrypoint: Sequence[str],
    environ: Mapping[str, str] | None = None,
    user: str = "",
) -> bytes:
    """``ctr images import`` takes it under ``name``. Layers are plain tars, laid over each other in order."""
    blobs: dict[str, bytes] = {}

    def put(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data), **more}

    packed = [put(gzip.compress(each, 1, mtime=0), _LAYER + "+gzip") for each in layers]
    config: dict[str, Any] = {"Entrypoint": list(entrypoint), "Env": [f"{k}={v}" for k, v in (environ or {}).items()]}
    if user:
        config["User"] = user
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]},
    }
    manifest = {
        "schemaVersion": 2, "mediaType": _MANIFEST, "config": put(json.dumps(described).encode(), _CONFIG),
        "layers": packed,
    }  # fmt: skip
    named = put(json.dumps(manifest).encode(), _MANIFEST, annotations={"io.containerd.image.name": name})
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [named]}
    files = {f"blobs/sha256/{digest}": data for digest, data in blobs.items()}
    files |= {"index.json": json.dumps(index).encode(), "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
