"""The report channel, read outside the box: lines -> records -> :class:`TestReport`."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from envfarm.core.box import ExecResult
from envfarm.core.environment import WORKDIR
from envfarm.core.verdict import RunOutcome, TestReport, TestStatus

_CHAIN_START = b"envfarm"
_CONFTEST = re.compile(rb"while loading conftest '([^'\n]+)'")


@dataclass(frozen=True)
class RunRecord:
    """A test report, and what a grader needs to doubt it."""

    report: TestReport
    raised: frozenset[str] = frozenset()
    """Tests in which an exception was seen, whatever their status says."""
    forged: tuple[str, ...] = ()
    """Lines that are not the reporter's: the first 200 characters of each, at most 20."""
    alarms: tuple[str, ...] = ()
    """Tripwire events."""
    changed: tuple[str, ...] = ()
    """Functions and classes of the test machinery that were replaced."""
    closed: bool = False
    """The closing record came, and its count is that of the test records."""
    closing_exit: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def read_lines(data: bytes, key: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """The authentic records in order, and the lines that are none. A cut last line counts as not authentic."""
    records: list[dict[str, Any]] = []
    forged: list[str] = []
    previous = _CHAIN_START
    for line in data.split(b"\n"):
        if not line:
            continue
        mac, _, payload = line.partition(b" ")
        expected = hmac.new(key, previous + payload, hashlib.sha256).hexdigest().encode()
        if not hmac.compare_digest(mac, expected):
            forged.append(line[:200].decode("utf-8", "backslashreplace").replace("\x00", "\\x00"))
            continue
        previous = mac
        records.append(json.loads(payload))
    return records, forged


def read_run(result: ExecResult, key: bytes, *, root: str = WORKDIR, log: str = "") -> RunRecord:
    """Turn a finished runner into a record. How the run ended is judged by what the agent saw, not by the runner."""
    records, forged = read_lines(result.report, key)
    # A run that was ended from outside may have been cut in the middle of a line of its own.
    if forged and (result.timed_out or result.oom_killed or result.signal) and not result.report.endswith(b"\n"):
        forged.pop()
    statuses: dict[str, TestStatus] = {}
    messages: dict[str, str] = {}
    collection_errors: dict[str, str] = {}
    duplicates: list[str] = []
    coverage: dict[str, dict[int, set[str]]] = {}
    seconds: dict[str, float] = {}
    raised: set[str] = set()
    alarms: list[str] = []
    changed: list[str] = []
    closing: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    tests = 0
    for record in records:
        match record["k"]:
            case "test":
                tests += 1
                name = record["id"]
                if name in statuses and name not in duplicates:
                    duplicates.append(name)
                statuses[name] = TestStatus(record["status"])
                seconds[name] = record["sec"]
                if record["raised"]:
                    raised.add(name)
                if "message" in record:
                    messages[name] = record["message"]
            case "collect_error":
                collection_errors[record["path"].split("::")[0]] = record["message"]
            case "trace":
                for path, spans in record["lines"].items():
                    lines = coverage.setdefault(path, {})
                    for line in _expand(spans):
                        lines.setdefault(line, set()).add(record["id"])
            case "alarm":
                alarms.append(record["event"])
            case "changed":
                changed += record["names"]
            case "start":
                versions = {"python": record["python"], "pytest": record["pytest"]}
            case "end":
                closing = record
    output = result.stdout + (b"\n" if result.stdout and result.stderr else b"") + result.stderr
    if conftest := _CONFTEST.search(output):
        path = conftest[1].decode("utf-8", "backslashreplace").removeprefix(root.rstrip("/") + "/")
        collection_errors.setdefault(path, _last_error(output))
    report = TestReport(
        outcome=_outcome(result, closing, tests),
        statuses=statuses,
        collection_errors=collection_errors,
        duplicates=tuple(duplicates),
        messages=messages,
        exit_code=result.exit_code,
        duration_sec=result.duration_sec,
        cpu_sec=result.cpu_sec,
        coverage={
            path: {line: tuple(sorted(ids)) for line, ids in sorted(lines.items())}
            for path, lines in sorted(coverage.items())
        },
        log=log,
        log_tail=clean(output[-16000:])[-4000:],
    )
    return RunRecord(
        report=report,
        raised=frozenset(raised),
        forged=tuple(forged[:20]),
        alarms=tuple(alarms),
        changed=tuple(changed),
        closed=closing is not None and closing["tests"] == tests and not result.report_cut_bytes,
        closing_exit=closing["exit"] if closing else None,
        seconds=seconds,
        versions=versions,
    )


def clean(data: bytes) -> str:
    """Output as text that any store takes."""
    return data.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")


def _outcome(result: ExecResult, closing: dict[str, Any] | None, tests: int) -> RunOutcome:
    if result.timed_out:
        return RunOutcome.timed_out
    if result.oom_killed:
        return RunOutcome.out_of_memory
    if closing is None or closing["exit"] != result.exit_code:
        return RunOutcome.crashed
    return RunOutcome.finished if tests else RunOutcome.no_tests


def _last_error(output: bytes) -> str:
    lines = [line[1:].strip() for line in clean(output).splitlines() if line.startswith("E ")]
    return (lines or ["the conftest could not be loaded"])[-1][:500]


def _expand(spans: str) -> Iterable[int]:
    for span in spans.split(","):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)
