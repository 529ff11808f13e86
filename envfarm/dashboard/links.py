"""Addresses of pages: every filter is a query parameter, so that a page's address is all there is to share."""

from __future__ import annotations

from urllib.parse import quote, urlencode

CANDIDATE_STAGES = frozenset({"filter", "draft"})
"""Stages whose items are keyed by a candidate's id."""
TASK_STAGES = frozenset({"build", "validate", "publish", "replay_gold", "replay_empty", "rollout"})
"""Stages whose items are keyed by a task's id, or by it and ``#`` and more."""


def link(*parts: object, **params: object) -> str:
    """``/runs/demo/events?stage=build``: parts are escaped, parameters that are None or empty are left out."""
    path = "/" + "/".join(quote(str(part), safe="@:~") for part in parts)
    query = {name: str(value) for name, value in params.items() if value not in (None, "")}
    return f"{path}?{urlencode(query)}" if query else path


def item_link(run: str, stage: str, key: str) -> str:
    """The page of what a stage worked on, or nothing where there is none."""
    if stage in CANDIDATE_STAGES:
        return link("runs", run, "candidates", key)
    if stage in TASK_STAGES:
        return link("tasks", key.partition("#")[0], run=run)
    return ""
