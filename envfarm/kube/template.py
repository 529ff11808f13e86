"""Bodies of creates from one serialised template: the same Pod ten thousand times over, with four values changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

_SLOTS = ("name", "slot", "token", "node")


class PodTemplate:
    """Serialises once. ``make`` builds the manifest from keywords ``name``, ``slot``, ``token``, ``node``.

    Values are put in as they are, so they must be plain: letters, digits, dashes, dots (``ValueError``)."""

    def __init__(self, make: Callable[..., dict[str, Any]]) -> None:
        self._plain = self._split(make, ("name", "slot", "token"))
        self._placed = self._split(make, _SLOTS)

    @staticmethod
    def _split(make: Callable[..., dict[str, Any]], names: tuple[str, ...]) -> list[tuple[bytes, str]]:
        marks = {name: f"@@{name}@@" for name in names}
        text = json.dumps(make(**{name: marks.get(name, "") for name in _SLOTS}), separators=(",", ":"))
        parts: list[tuple[bytes, str]] = []
        while True:
            found = [(at, name) for name, mark in marks.items() if (at := text.find(mark)) >= 0]
            if not found:
                return [*parts, (text.encode(), "")]
            at, name = min(found)
            parts.append((text[:at].encode(), name))
            text = text[at + len(marks[name]) :]

    def body(self, *, name: str, slot: str, token: str, node: str = "") -> bytes:
        """The request's body."""
        values = {"name": name, "slot": slot, "token": token, "node": node, "": ""}
        for value in values.values():
            if value and not all(c.isalnum() or c in "-." for c in value):
                raise ValueError(f"{value!r} cannot stand in a template")
        parts = self._placed if node else self._plain
        return b"".join(text + values[place].encode() for text, place in parts)
