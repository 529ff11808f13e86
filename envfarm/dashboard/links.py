"""Addresses of pages: every filter is a query parameter, so that a page's address is all there is to share."""

from __future__ import annotations

import shlex
from urllib.parse import quote, urlencode

CANDIDATE_STAGES = frozenset({"filter", "draft"})
"""Stages whose items are keyed by a candidate's id."""
TASK_STAGES = frozenset({"build", "validate", "publish", "replay_gold", "replay_empty", "rollout"})
"""Stages whose items are keyed by a task's id, or by it and ``#`` and more."""


def link(*parts: object, **params: object) -> str:
    """``/runs/demo/events?stage=build``: parts are escaped, parameters that are None or empty are left out."""
    return "/" + "/".join(quote(str(part), safe="@:~") for part in parts) + query(**params)


def query(**params: object) -> str:
    """``?stage=build``, or nothing when every parameter is None or empty."""
    given = {name: str(value) for name, value in params.items() if value not in (None, "")}
    return "?" + urlencode(given) if given else ""


def item_link(run: str, stage: str, key: str) -> str:
    """The page of what a stage worked on, or nothing where there is none."""
    if stage in CANDIDATE_STAGES:
        return link("runs", run, "candidates", key)
    if stage in TASK_STAGES:
        return link("tasks", key.partition("#")[0], run=run)
    return ""


def resume_command(run: str) -> str:
    """What to type to go on with a run."""
    return "envfarm demo --resume" if run == "demo" else f"envfarm build --resume --run {shlex.quote(run)}"
