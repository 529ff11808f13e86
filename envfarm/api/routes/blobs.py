"""Blobs, raw."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from envfarm.dashboard.access import BlobsDep

router = APIRouter(tags=["blobs"])

_PROBE_BYTES = 8192


@router.get("/blobs/{digest}", response_class=Response)
def blob(blobs: BlobsDep, digest: str) -> Response:
    """The bytes: plain text for the browser to show, or a download where they are not text.

    Never HTML, whatever is in them; the content address never changes, so it may be kept for good.
    """
    data = blobs.get(digest)
    headers = {"cache-control": "private, max-age=31536000, immutable", "content-security-policy": "sandbox"}
    if b"\0" in data[:_PROBE_BYTES]:
        headers["content-disposition"] = f'attachment; filename="{digest.removeprefix("sha256:")[:12]}"'
        return Response(data, media_type="application/octet-stream", headers=headers)
    return Response(data, media_type="text/plain; charset=utf-8", headers=headers)
