"""The pytest plugin that turns a session into records."""

# ruff: noqa: PTH110, PTH118  (pathlib costs start-up time in every box)
from __future__ import annotations

import os
import time

import pytest

from envfarm_verifiers.inbox.channel import printable

_RANK = {"passed": 0, "xpassed": 1, "xfailed": 2, "skipped": 3, "failed": 4, "error": 5}


def phase_status(report):
    """Status that one phase (setup, call, teardown) gives its test, or None for a phase that says nothing."""
    expected = hasattr(report, "wasxfail")
    if report.outcome == "skipped":
        return "xfailed" if expected else "skipped"
    if report.outcome == "failed":
        return "failed" if report.when == "call" else "error"
    if report.outcome == "passed" and report.when == "call":
        return "xpassed" if expected else "passed"
    return None


def failure_text(report):
    """The error's message, or the end of its traceback: at most 20 lines."""
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    text = getattr(crash, "message", "") or getattr(report, "longreprtext", "") or str(report.longrepr or "")
    return printable("\n".join(text.strip().splitlines()[:20]), 2000)


class Reporter:
    """Sends one record for each test and each file that does not collect.

    ``files`` and ``ids``: when not None, every other item is deselected. ``tracer``: see ``tracer.Tracer``. Two
    attributes may be set before the session: ``begin(manager)`` is called once plugins are there, ``check(moment)``
    after each test and after collection.
    """

    def __init__(self, send, files=None, ids=None, tracer=None):
        self._send = send
        self._files = files
        self._ids = ids
        self._tracer = tracer
        self._phases = {}
        self.check = lambda moment: None
        self.begin = lambda manager: None
        self.tests = 0
        self.fields = 0
        self.fields = len(vars(self))

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config):
        self.begin(config.pluginmanager)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        if self._ids is None:
            return
        kept = []
        dropped = []
        for item in items:
            chosen = item.nodeid in self._ids or item.nodeid.split("::")[0] in self._files
            (kept if chosen else dropped).append(item)
        if dropped:
            items[:] = kept
            config.hook.pytest_deselected(items=dropped)

    def pytest_collection_finish(self, session):
        self._send({"k": "collected", "n": len(session.items)})
        self.check("collected")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report):
        if report.failed:
            self._send({
                "k": "collect_error",
                "path": printable(report.nodeid),
                "message": _error_line(printable(getattr(report, "longreprtext", "") or report.longrepr, 20000)),
            })  # fmt: skip

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        raised = call.excinfo is not None
        yield
        state = self._phases.get(item.nodeid)
        if state is not None:
            # unittest's own errors come in during the call; what was there before it may be gone after it.
            state["raised"] = state["raised"] or raised or call.excinfo is not None
            state["phases"] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        state = self._phases.get(report.nodeid)
        if state is None:
            return
        if report.outcome == "rerun":
            state.update(status=None, message="", raised=False)
            return
        status = phase_status(report)
        if type(report).__name__.lower() == "subtestreport":
            status = "failed" if report.outcome == "failed" else None
        if status is not None and (state["status"] is None or _RANK[status] > _RANK[state["status"]]):
            state["status"] = status
            if status in ("failed", "error"):
                state["message"] = failure_text(report)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        name = item.nodeid
        state = self._phases[name] = {"status": None, "message": "", "raised": False, "phases": 0}
        started = time.monotonic()
        if self._tracer is not None:
            self._tracer.begin()
        yield
        lines = self._tracer.end() if self._tracer is not None else None
        self._phases.pop(name, None)
        self.tests += 1
        record = {
            "k": "test",
            "id": printable(name, 100000),
            "status": state["status"] or "error",
            "raised": state["raised"],
            "phases": state["phases"],
            "sec": round(time.monotonic() - started, 4),
        }
        if state["message"]:
            record["message"] = state["message"]
        self._send(record)
        if lines:
            self._send({"k": "trace", "id": record["id"], "lines": lines})
        self.check("test")


def _error_line(text):
    """The line of a collection traceback that names the error: pytest marks those with ``E``."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (marked or lines or [""])[-1][:500]


def split_selection(only, root):
    """``only`` -> (paths to hand to pytest, whole files, single ids); what is not on disk is left out.

    pytest refuses a whole run for one id that is gone, so ids are matched after collection.
    """
    if not only:
        return [], None, None
    paths = []
    files = set()
    ids = set()
    for entry in only:
        path = entry.split("::")[0]
        if not os.path.exists(os.path.join(root, path)):
            continue
        if path not in paths:
            paths.append(path)
        if "::" in entry:
            ids.add(entry)
        else:
            files.add(path.rstrip("/"))
    return paths, files, ids
