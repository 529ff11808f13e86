"""What an operator proposes: a stretch of text and what comes in its place."""

from __future__ import annotations

from typing import NamedTuple


class Replacement(NamedTuple):
    """``text`` in place of ``[start:end]``: character offsets into the file."""

    start: int
    end: int
    text: str
