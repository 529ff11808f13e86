"""Which lines of given source files each test runs. ``sys.monitoring`` where there is one, ``sys.settrace`` else."""

# ruff: noqa: PTH100  (pathlib costs start-up time in every box)
from __future__ import annotations

import os
import sys
import threading
from typing import Any


class Tracer:
    """Collects executed lines between ``begin`` and ``end``. ``sources``: absolute folders and files."""

    def __init__(self, root, sources):
        self._root = root.rstrip("/") + "/"
        self._prefixes = tuple(path.rstrip("/") + "/" for path in sources)
        self._files = frozenset(path.rstrip("/") for path in sources)
        self._names = {}
        self._lines = {}
        self._monitoring: Any = getattr(sys, "monitoring", None)
        if self._monitoring is not None:
            self._tool = self._claim()

    def _claim(self):
        monitoring = self._monitoring
        tool = next(number for number in (1, 2, 3, 4) if monitoring.get_tool(number) is None)
        monitoring.use_tool_id(tool, "envfarm")
        events = monitoring.events

        def start(code, offset):
            if self._name(code.co_filename) is not None:
                monitoring.set_local_events(tool, code, events.LINE)
            return monitoring.DISABLE

        def line(code, number):
            name = self._names.get(code.co_filename)
            if name is None:
                return monitoring.DISABLE
            self._lines.setdefault(name, set()).add(number)
            return None

        monitoring.register_callback(tool, events.PY_START, start)
        monitoring.register_callback(tool, events.LINE, line)
        return tool

    def _name(self, filename):
        """Path relative to the root when it is a traced source, else None."""
        if filename not in self._names:
            path = os.path.abspath(filename) if not filename.startswith("<") else ""
            traced = path in self._files or path.startswith(self._prefixes)
            self._names[filename] = path[len(self._root) :] if traced and path.startswith(self._root) else None
        return self._names[filename]

    def _call(self, frame, event, arg):
        name = self._name(frame.f_code.co_filename)
        if name is None:
            return None
        add = self._lines.setdefault(name, set()).add

        def line(frame, event, arg):
            if event == "line":
                add(frame.f_lineno)
            return line

        return line

    def begin(self):
        """Start collecting for one test."""
        self._lines = {}
        if self._monitoring is not None:
            self._monitoring.set_events(self._tool, self._monitoring.events.PY_START)
        else:
            threading.settrace(self._call)
            sys.settrace(self._call)

    def end(self):
        """Stop, and return path -> ranges (``1-4,9``)."""
        if self._monitoring is not None:
            self._monitoring.set_events(self._tool, 0)
        else:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        lines, self._lines = self._lines, {}
        return {name: ranges(numbers) for name, numbers in sorted(lines.items()) if numbers}


def ranges(numbers):
    """``{1, 2, 3, 7}`` -> ``1-3,7``."""
    parts = []
    start = previous = None
    for number in sorted(numbers):
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None:
            parts.append(_span(start, previous))
        start = previous = number
    if start is not None:
        parts.append(_span(start, previous))
    return ",".join(parts)


def _span(start, end):
    return str(start) if start == end else f"{start}-{end}"
