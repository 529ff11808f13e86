"""The application factory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from envfarm import __version__
from envfarm.core.ports import BlobStore
from envfarm.dashboard.pages import router as pages
from envfarm.dashboard.templating import STATIC
from envfarm.store import Store

from . import errors, routes
from .guard import LOOPBACK_NAMES, Guard


def create_app(
    store: Store, blobs: BlobStore, home: Path, allowed_hosts: Sequence[str] | None = LOOPBACK_NAMES
) -> FastAPI:
    """The application over a store and its blobs, which stay the caller's to close, and the training runs of ``home``.
    It only reads.

    ``allowed_hosts`` are the names a request may be addressed to; None is any. The default keeps a web page that
    rebinds its own name to this machine from reading tasks through somebody's browser.
    """
    app = FastAPI(
        title="envfarm",
        version=__version__,
        summary="Runs, tasks and environments of a farm. Read only.",
        openapi_url="/api/openapi.json",
        # FastAPI's own documentation pages load scripts from elsewhere; ours work offline.
        docs_url=None,
        redoc_url=None,
    )
    app.state.store, app.state.blobs, app.state.home = store, blobs, home
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(routes.router)
    app.include_router(pages)
    errors.install(app)
    app.add_middleware(Guard, allowed_hosts=allowed_hosts)
    return app
