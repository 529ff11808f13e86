"""A log, or any other blob, as text."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from .. import texts
from ..access import BlobsDep, found
from ..templating import render

router = APIRouter()


@router.get("/logs/{digest}")
def log_page(blobs: BlobsDep, digest: str) -> HTMLResponse:
    """The end of the log; the whole is under ``/api/blobs/{digest}``."""
    log = found(texts.tail(blobs, digest), "blob", digest, "The blob store may be another one than the run's.")
    return HTMLResponse(render("log.html", log=log, digest=digest))
