"""Training runs as their folders tell them: what is derived, pages and JSON."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from envfarm.api import create_app
from envfarm.core.errors import FailureRecord, Reason, StoreError, Tier
from envfarm.core.process import Process, own_process
from envfarm.dashboard.training import HEIGHT, WIDTH, polyline
from envfarm.store import FsspecBlobs, Store
from envfarm.telemetry.training import (
    JOB,
    METRICS,
    STATUS,
    TRAIN,
    Job,
    State,
    Status,
    Where,
    derive,
    read_metrics,
    training_run,
    training_runs,
    write_job,
)  # fmt: skip

GONE = Process(pid=1, start=1)
"""No process: the first one did not start at that tick."""
HERE = "here"


def status(state: State, process: Process, **more: Any) -> Status:
    return Status(state=state, step=3, steps=9, version=2, process=process, **more)


def record(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step, "version": step + 1, "launched": 8, "scored": 6, "masked": {"infra:box_lost": 1}, "unscorable": 1,
        "reward": 0.25, "pass_at_1": 0.25, "solve_all": 0.0, "solve_none": 0.5, "response_tokens": 12.5,
        "accepted_length": 1.75, "tokens_per_sec": {"rollout": 100.0, "train": 50.0},
        "seconds": {"rollout": 1.0, "train": 2.0}, "skipped": "",
    } | more  # fmt: skip


def write(home: Path, name: str, job: Job, told: Status | None, records: list[dict[str, Any]]) -> Path:
    folder = home / TRAIN / name
    folder.mkdir(parents=True)
    write_job(folder, job)
    if told is not None:
        (folder / STATUS).write_text(told.model_dump_json(), "utf-8")
    (folder / METRICS).write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    return folder


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with Store.open(f"sqlite:///{tmp_path / 'farm.db'}") as store:
        app = create_app(store, FsspecBlobs(str(tmp_path / "blobs")), tmp_path)
        yield TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_what_a_run_says_is_believed_only_while_its_process_lives() -> None:
    me = own_process()
    alive, gone = Job(host=HERE, process=me), Job(host=HERE, process=GONE)
    assert derive(Job(), None, HERE) is State.submitted
    assert derive(alive, None, HERE) is State.submitted
    assert derive(alive, status(State.running, me), HERE) is State.running
    assert derive(gone, status(State.running, GONE), HERE) is State.lost
    assert derive(gone, None, HERE) is State.lost
    assert derive(gone, status(State.running, GONE), "another machine") is State.running
    assert derive(gone.model_copy(update={"cancelled": True}), status(State.running, GONE), HERE) is State.cancelled
    for last_word in (State.finished, State.failed, State.cancelled):
        assert derive(gone, status(last_word, GONE), HERE) is last_word


def test_the_last_word_of_the_process_before_is_not_that_of_a_resumed_run() -> None:
    resumed = Job(host=HERE, process=own_process())
    assert derive(resumed, status(State.failed, GONE), HERE) is State.submitted
    killed_at_once = Job(host=HERE, process=GONE)
    assert derive(killed_at_once, status(State.finished, own_process()), HERE) is State.lost


def test_a_real_process_that_is_killed_is_seen_to_be_lost(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        process = Process.of(child.pid)
        job, told = Job(host=socket.gethostname(), process=process), status(State.running, process)
        write(tmp_path, "a", job, told, [])
        found = training_run(tmp_path, "a")
        assert found is not None and found.state is State.running
    finally:
        child.kill()
        child.wait()
    found = training_run(tmp_path, "a")
    assert found is not None and found.state is State.lost


def test_metrics_are_read_by_complete_lines_and_on_from_where_they_were(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", Job(), None, [record(0), record(1)])
    with (folder / METRICS).open("ab") as file:
        file.write(b'{"step": 2, "half')
    records, place = read_metrics(folder)
    assert [each["step"] for each in records] == [0, 1]
    with (folder / METRICS).open("ab") as file:
        file.write(b'": 1}\n')
    again, end = read_metrics(folder, place)
    assert [each["step"] for each in again] == [2] and end == (folder / METRICS).stat().st_size
    (folder / METRICS).write_text(json.dumps(record(0)) + "\n", "utf-8")
    cut, end = read_metrics(folder, end)
    assert cut == [] and end == (folder / METRICS).stat().st_size


def test_a_file_cut_back_and_grown_again_is_read_from_the_line_that_the_place_lies_in(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step":0}\n{"step":1}\n{"step":2}\n')
    _, place = read_metrics(tmp_path)
    file.write_bytes(b'{"step":0}\n{"step":1,"after":"a resume, in a longer line"}\n{"step":2}\n')
    records, end = read_metrics(tmp_path, place)
    assert [each["step"] for each in records] == [1, 2] and end == file.stat().st_size


def test_a_damaged_file_is_one_sentence(tmp_path: Path, client: TestClient) -> None:
    folder = write(tmp_path, "a", Job(), None, [])
    (folder / JOB).write_text('{"on": "the moon"}', "utf-8")
    with pytest.raises(StoreError, match=r"job\.json is damaged"):
        training_runs(tmp_path)
    assert "job.json is damaged" in client.get("/training").text


def test_the_page_shows_curves_accounts_and_the_newest_steps(tmp_path: Path, client: TestClient) -> None:
    me = own_process()
    told = status(State.running, me, note="Resumed from <step-00000002>.")
    write(tmp_path, "digits", Job(host=socket.gethostname(), process=me, on=Where.local), told,
          [record(step, pass_at_1=step / 100) for step in range(60)])  # fmt: skip
    listing = client.get("/training").text
    assert 'href="/training/digits"' in listing and "running" in listing
    page = client.get("/training/digits").text
    assert page.count("<svg") >= 7 and page.count("<polyline") == 9
    assert 'hx-get="/training/digits/progress"' in page
    assert "Resumed from &lt;step-00000002&gt;." in page
    assert "infra:box_lost" in page and "59 %" in page
    assert '<th scope="row" class="n">60</th>' in page and '<th scope="row" class="n">10</th>' not in page
    assert "<dd>480</dd>" in page and "<dd>360</dd>" in page and page.count("<dd>60</dd>") == 2
    part = client.get("/training/digits/progress").text
    assert part.startswith("<div") and "<html" not in part
    assert client.get("/").text.count('href="/training"') == 1


def test_a_run_that_ended_is_not_asked_again_and_says_why(tmp_path: Path, client: TestClient) -> None:
    error = FailureRecord(
        boundary="trainer", phase="save", reason=Reason.disk_full, tier=Tier.environment, message="The disk is full."
    )
    write(tmp_path, "a", Job(process=GONE), status(State.failed, GONE, error=error), [])
    page = client.get("/training/a").text
    assert "hx-get" not in page and "The disk is full." in page and "No step has been taken yet." in page


def test_the_same_as_json(tmp_path: Path, client: TestClient) -> None:
    write(tmp_path, "a", Job(), None, [record(0), record(1), record(2)])
    assert [each["name"] for each in client.get("/api/training").json()] == ["a"]
    assert client.get("/api/training/a").json()["state"] == "submitted"
    assert [each["step"] for each in client.get("/api/training/a/metrics?offset=1&limit=1").json()] == [1]


@pytest.mark.parametrize("address", ["/training/nothing", "/api/training/nothing/metrics", "/training/..%2f.."])
def test_a_run_that_is_not_there(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 404


@given(st.lists(st.one_of(st.none(), st.floats(-1, 10)), max_size=500))
def test_a_curve_stays_in_its_frame_and_goes_left_to_right(values: list[float | None]) -> None:
    points = [tuple(map(float, point.split(","))) for point in polyline(values, 5.0).split()]
    assert len(points) <= WIDTH
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert [x for x, _ in points] == sorted({x for x, _ in points})
    if any(value is not None for value in values):
        assert points


def test_a_curve_shows_what_it_is_given() -> None:
    assert polyline([0.0, 1.0, None, 0.5], 1.0) == "0.0,60.0 66.7,0.0 200.0,30.0"
    assert polyline([], 1.0) == ""
