"""The report channel, read outside the box."""

from __future__ import annotations

import hashlib
import hmac
import json

from envfarm_verifiers.report import read_lines, read_run
from hypothesis import given
from hypothesis import strategies as st

from envfarm.core.box import ExecResult
from envfarm.core.verdict import RunOutcome, TestStatus

KEY = b"k" * 32


def chain(*records: dict, key: bytes = KEY) -> bytes:
    """What an honest reporter writes."""
    previous, lines = b"envfarm", []
    for record in records:
        payload = json.dumps(record).encode()
        previous = hmac.new(key, previous + payload, hashlib.sha256).hexdigest().encode()
        lines.append(previous + b" " + payload + b"\n")
    return b"".join(lines)


def test_record(name: str, status: str = "passed", **fields: object) -> dict:
    return {"k": "test", "id": name, "status": status, "raised": False, "phases": 3, "sec": 0.1, **fields}


test_record.__test__ = False  # type: ignore[attr-defined]


def run(*records: dict, **result: object):
    values = {"exit_code": 0, "report": chain(*records)} | result
    return read_run(ExecResult.model_validate(values), KEY)


def test_a_whole_run():
    seen = run(
        {"k": "start", "python": "3.11.7", "pytest": "9.0"},
        {"k": "collect_error", "path": "t/b.py::C", "message": "ImportError: x"},
        test_record("t/a.py::x[a b]"),
        {"k": "trace", "id": "t/a.py::x[a b]", "lines": {"src/a.py": "1-3,7"}},
        test_record("t/a.py::y", "failed", raised=True, message="assert 1 == 2"),
        {"k": "end", "exit": 1, "tests": 2},
        exit_code=1,
        stdout=b"x" * 5000 + b"\x00\xff",
    )
    report = seen.report
    assert report.outcome is RunOutcome.finished and seen.closed and not seen.forged
    assert report.statuses == {"t/a.py::x[a b]": TestStatus.passed, "t/a.py::y": TestStatus.failed}
    assert report.collection_errors == {"t/b.py": "ImportError: x"}
    assert report.messages == {"t/a.py::y": "assert 1 == 2"} and seen.raised == {"t/a.py::y"}
    assert report.coverage == {"src/a.py": {line: ("t/a.py::x[a b]",) for line in (1, 2, 3, 7)}}
    assert len(report.log_tail) == 4000 and report.log_tail.endswith("\\x00\\xff")


def test_how_a_run_ended_is_judged_from_outside():
    one, end = test_record("t/a.py::x"), {"k": "end", "exit": 0, "tests": 1}
    assert run(one, end).report.outcome is RunOutcome.finished
    assert run(one).report.outcome is RunOutcome.crashed
    assert run(one, end, exit_code=1).report.outcome is RunOutcome.crashed
    assert run(one, end, timed_out=True, exit_code=None).report.outcome is RunOutcome.timed_out
    assert run(one, oom_killed=True, exit_code=None, signal=9).report.outcome is RunOutcome.out_of_memory
    assert run({"k": "end", "exit": 5, "tests": 0}, exit_code=5).report.outcome is RunOutcome.no_tests
    assert not run(one, {"k": "end", "exit": 0, "tests": 2}).closed
    assert not run(one, end, report_cut_bytes=1).closed


def test_a_line_cut_by_the_time_limit_is_no_forgery():
    data = chain(test_record("a::x"), test_record("a::y"))[:-10]
    cut = read_run(ExecResult(exit_code=None, timed_out=True, report=data), KEY)
    assert list(cut.report.statuses) == ["a::x"] and not cut.forged
    assert read_run(ExecResult(exit_code=0, report=data), KEY).forged


def test_ids_reported_twice_are_named():
    assert run(test_record("a::x"), test_record("a::x"), test_record("a::x", "failed")).report.duplicates == ("a::x",)


def test_a_conftest_that_does_not_load_is_a_collection_error():
    text = b"ImportError while loading conftest '/repo/tests/conftest.py'.\nE   ImportError: cannot import name 'new'\n"
    seen = run({"k": "end", "exit": 4, "tests": 0}, exit_code=4, stderr=text)
    assert seen.report.collection_errors == {"tests/conftest.py": "ImportError: cannot import name 'new'"}


def test_forged_dropped_repeated_and_moved_lines_are_seen():
    lines = chain(test_record("a::x"), test_record("a::y"), {"k": "end", "exit": 0, "tests": 2}).splitlines(
        keepends=True
    )
    forgeries = [
        [*lines[:1], b'{"k":"test","id":"a::z","status":"passed"}\n', *lines[1:]],
        [lines[0], lines[0], *lines[1:]],
        [lines[1], lines[0], lines[2]],
        [lines[0], lines[2]],
        [lines[0], lines[1].replace(b"passed", b"failed"), lines[2]],
        [*lines, *chain(test_record("a::z"), key=b"other").splitlines(keepends=True)],
    ]
    for forgery in forgeries:
        assert read_lines(b"".join(forgery), KEY)[1]
    assert not read_lines(b"".join(lines), KEY)[1]


@given(st.binary(max_size=200), st.integers(0, 400))
def test_bytes_put_in_anywhere_never_become_a_record(noise, at):
    honest = chain(test_record("a::x"), test_record("a::y"))
    records, forged = read_lines(honest[:at] + noise + honest[at:], KEY)
    assert records in ([test_record("a::x"), test_record("a::y")][:n] for n in range(3))
    assert forged or len(records) == 2
