"""The JSON API, one module for each noun."""

from __future__ import annotations

from fastapi import APIRouter

from ..errors import RESPONSES
from . import blobs, environments, health, rollouts, runs, tasks, training

router = APIRouter()
router.include_router(health.router)
for module in (runs, tasks, rollouts, environments, blobs, training):
    router.include_router(module.router, prefix="/api", responses=RESPONSES)  # pyright: ignore[reportArgumentType]
