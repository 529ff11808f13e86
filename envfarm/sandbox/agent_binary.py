"""Finds the agent: the static binary that runs inside every box."""

from __future__ import annotations

import os
from pathlib import Path

from envfarm.core.errors import ProviderError, Reason

_SHIPPED = Path(__file__).parent / "_bin" / "envfarm-agent"


def agent_binary() -> Path:
    """``ENVFARM_AGENT`` where it is set, else the binary shipped with this package.

    Raises ``ProviderError`` (no_agent) when there is no executable file.
    """
    override = os.environ.get("ENVFARM_AGENT")
    path = Path(override) if override else _SHIPPED
    if path.is_file() and os.access(path, os.X_OK):
        return path
    source = "named by ENVFARM_AGENT" if override else "that comes with this package"
    raise ProviderError(
        f"The agent binary {source} is not an executable file: {path}.",
        reason=Reason.no_agent,
        phase="acquire",
        remedy="Unset ENVFARM_AGENT or correct it." if override else "Build it with `make agent`.",
    )
