"""HTML pages, one module for each noun. Handlers are plain functions: the store blocks, so they run in threads."""

from __future__ import annotations

from fastapi import APIRouter

from . import environments, logs, rollouts, runs, tasks, training

router = APIRouter(include_in_schema=False)
for module in (runs, tasks, rollouts, environments, logs, training):
    router.include_router(module.router)
