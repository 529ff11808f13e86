"""Pages and JSON over a store that was written as workers write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from envfarm.api import create_app
from envfarm.core.ports import StageOutcome
from envfarm.core.work import StageResult
from envfarm.dashboard.links import link
from envfarm.dashboard.report import render_report
from envfarm.store import FsspecBlobs, Store
from envfarm.wiring import summary
from envfarm.wiring.plan import RunPlan
from envfarm.wiring.rungs import STAGES

from ..farm_rows import RUN, SCRIPT, Rows, end, fill, work

LOOPBACK = "http://127.0.0.1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'farm.db'}") as opened:
        yield opened


@pytest.fixture
def blobs(tmp_path: Path) -> FsspecBlobs:
    return FsspecBlobs(str(tmp_path / "blobs"))


@pytest.fixture
def client(store: Store, blobs: FsspecBlobs, tmp_path: Path) -> TestClient:
    return TestClient(create_app(store, blobs, tmp_path), base_url=LOOPBACK, raise_server_exceptions=False)


@pytest.fixture
def rows(store: Store, blobs: FsspecBlobs) -> Rows:
    return fill(store, blobs)


def addresses(rows: Rows) -> list[str]:
    return [
        "/",
        link("runs", RUN),
        link("runs", RUN, source="pypi"),
        link("runs", RUN, repo=f"evil{SCRIPT}"),
        link("runs", RUN, "progress"),
        link("runs", RUN, "repositories"),
        link("runs", RUN, "events"),
        link("runs", RUN, "tasks"),
        link("runs", RUN, "candidates", "evil__evil-1"),
        link("tasks", rows.task.id),
        link("tasks", rows.task.id, run=RUN, transition="p2p"),
        link("tasks", rows.invalid.id),
        link("tasks", rows.synth.id),
        link("rollouts", rows.rollout.id),
        link("environments", rows.environment.digest),
        link("logs", rows.log),
    ]


def test_every_page_answers_and_escapes_what_strangers_wrote(client: TestClient, rows: Rows) -> None:
    hostile = 0
    for address in addresses(rows):
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert SCRIPT not in answer.text, address
        assert "<script>" not in answer.text, address
        hostile += "&lt;script&gt;" in answer.text
        assert "http://" not in answer.text and "https://" not in answer.text, address
    assert hostile >= 10, "the hostile text must be on the pages for its escaping to mean anything"


def test_security_headers_stand_on_pages_errors_and_static_files(client: TestClient, rows: Rows) -> None:
    for address in ("/", "/nope", "/static/style.css", "/api/nope", "/healthz"):
        headers = client.get(address).headers
        assert "script-src 'self'" in headers["content-security-policy"], address
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_requests_to_other_names_are_refused(store: Store, blobs: FsspecBlobs, tmp_path: Path) -> None:
    app = create_app(store, blobs, tmp_path)
    for host in ("localhost:8321", "127.0.0.1", "[::1]:8321"):
        assert TestClient(app, headers={"host": host}).get("/").status_code == 200, host
    for host in ("rebound.example", "127.0.0.1.example", ""):
        answer = TestClient(app, headers={"host": host}).get("/api/runs")
        assert answer.status_code == 421, host
        assert answer.json()["reason"] == "host_refused"
    anyone = create_app(store, blobs, tmp_path, allowed_hosts=None)
    assert TestClient(anyone, headers={"host": "farm.example"}).get("/").status_code == 200


def test_the_funnel_counts_every_item_once(client: TestClient, rows: Rows) -> None:
    overview = client.get(f"/api/runs/{RUN}").json()
    lines = {line["stage"]: line for line in overview["stages"]}
    assert [line["stage"] for line in overview["stages"]] == [stage for stage in STAGES if stage in lines]
    assert {name: lines["base"][name] for name in ("done", "rejected", "failed")} == {
        "done": 1, "rejected": 1, "failed": 1,
    }  # fmt: skip
    assert lines["base"]["wall_sec"] == pytest.approx(122)
    assert lines["rollout"] == lines["rollout"] | {"waiting": 2, "active": 0, "done": 0}
    assert overview["state"] == "waiting"
    assert overview["published"] == {"pypi": 1, "synth": 1}


def test_environment_success_has_three_rungs_with_denominator_and_interval(client: TestClient, rows: Rows) -> None:
    rungs = client.get(f"/api/runs/{RUN}").json()["rungs"]
    assert [(rungs[name]["k"], rungs[name]["n"]) for name in ("installs", "collects", "passes")] == [
        (2, 3), (2, 3), (1, 3),
    ]  # fmt: skip
    assert rungs["passes"]["low"] == pytest.approx(0.0615, abs=1e-3)
    assert rungs["passes"]["high"] == pytest.approx(0.7923, abs=1e-3)
    by_source = {each["key"]: each["passes"] for each in client.get(f"/api/runs/{RUN}").json()["rungs_by_source"]}
    assert (by_source["pypi"]["k"], by_source["pypi"]["n"]) == (1, 2)
    assert (by_source["git"]["k"], by_source["git"]["n"]) == (0, 1)


def test_the_pages_and_the_summary_of_a_run_say_the_same(client: TestClient, store: Store, rows: Rows) -> None:
    figures = summary.summarise(store, RUN, RunPlan(repositories=("pypi:jinja2", "pypi:click", "git:/src/evil")))
    overview = client.get(f"/api/runs/{RUN}").json()
    for rung in ("installs", "collects", "passes"):
        shown = overview["rungs"][rung]
        environments = figures["environments"]
        assert (shown["k"], shown["n"]) == (environments[rung], environments["tried"])
        assert [shown["low"], shown["high"]] == pytest.approx(environments["intervals"][rung])
    ended = {line["stage"]: line["in"] for line in figures["stages"]}
    assert ended == {
        line["stage"]: line["done"] + line["rejected"] + line["failed"]
        for line in overview["stages"]
        if line["stage"] in ended
    }
    assert "33.3 %" in render_report(figures)


def test_filters_narrow_the_funnel(client: TestClient, rows: Rows) -> None:
    lines = client.get(f"/api/runs/{RUN}", params={"repo": "click"}).json()["stages"]
    assert {line["stage"]: (line["done"], line["rejected"]) for line in lines} == {"mine": (1, 0), "base": (0, 1)}
    synth = client.get(f"/api/runs/{RUN}", params={"source": "synth"}).json()
    assert {line["stage"] for line in synth["stages"]} == {"mutate", "validate", "publish"}
    assert not client.get(f"/api/runs/{RUN}", params={"repo": "unheard-of"}).json()["stages"]


def test_numbers_lead_to_their_rows(client: TestClient, rows: Rows) -> None:
    page = client.get(f"/runs/{RUN}").text
    address = f"/runs/{RUN}/events?stage=base&amp;outcome=failed&amp;reason=install_failed"
    assert address in page
    events = client.get(address.replace("&amp;", "&")).text
    assert "1 ended item matches" in events
    assert "git:/src/evil" in events and f"/logs/{rows.log}" in events
    found = client.get(f"/api/runs/{RUN}/events", params={"stage": "base", "outcome": "failed"}).json()
    assert [event["reason"] for event in found] == ["install_failed"]
    assert found[0]["failure"]["detail"] == "error: command 'gcc' failed"


def test_events_are_paged_by_id(client: TestClient, store: Store, rows: Rows) -> None:
    for number in range(120):
        end(store, "filter", f"more-{number}")
    first = client.get(f"/runs/{RUN}/events", params={"stage": "filter"}).text
    assert "123 ended items match" in first and "more-119" in first and "more-19<" not in first
    older = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    assert "stage=filter" in older, "the filter stays in the address"
    second = client.get(older).text
    assert "more-19<" in second and "more-20<" not in second
    ids = [event["id"] for event in client.get(f"/api/runs/{RUN}/events", params={"limit": 7}).json()]
    following = client.get(f"/api/runs/{RUN}/events", params={"limit": 7, "before": ids[-1]}).json()
    assert max(event["id"] for event in following) < ids[-1]


def test_the_page_polls_until_the_run_is_over(client: TestClient, store: Store, rows: Rows) -> None:
    assert 'hx-trigger="every 2s"' in client.get(f"/runs/{RUN}/progress").text
    for _ in range(2):
        lease = store.queue.lease(RUN, ["rollout"], "worker-1", 60)
        assert lease is not None
        assert client.get(f"/api/runs/{RUN}").json()["state"] == "running"
        store.queue.finish(lease, StageResult(outcome=StageOutcome.done))
    over = client.get(f"/runs/{RUN}/progress").text
    assert "hx-trigger" not in over and "finished" in over


def test_a_task_shows_statement_patch_evidence_and_verdicts(client: TestClient, rows: Rows) -> None:
    page = client.get(link("tasks", rows.task.id)).text
    assert "urlize() returns None for empty text." in page
    assert '<span class="d-del">--- trailing' in page and '<span class="d-file">--- a/src' in page
    assert "tests/test_utils.py::test_urlize_empty" in page and "test_template_7" not in page
    assert "flaky" in page and "base + tests + gold" in page
    assert "all_passed" in page and link("rollouts", rows.rollout.id) in page
    steady = client.get(link("tasks", rows.task.id, transition="p2p")).text
    assert "test_template_7" in steady
    refused = client.get(link("tasks", rows.invalid.id)).text
    assert "no_f2p" in refused and "No test fails before the fix." in refused


def test_a_log_loses_its_terminal_codes_and_a_long_one_its_beginning(client: TestClient, blobs: FsspecBlobs) -> None:
    digest = blobs.put(b"first line\n" + b"x" * 400_000 + b"\n\x1b[1;31mlast\x1b[0m line \xff\n")
    page = client.get(link("logs", digest)).text
    assert "last line \ufffd" in page and "first line" not in page and "\x1b" not in page
    raw = client.get(link("api", "blobs", digest))
    assert raw.content.startswith(b"first line")
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert raw.headers["content-security-policy"] == "sandbox"


def test_a_binary_blob_is_a_download(client: TestClient, rows: Rows) -> None:
    answer = client.get(link("api", "blobs", rows.task.tree))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_task_whose_blobs_lie_elsewhere_is_still_shown(store: Store, rows: Rows, tmp_path: Path) -> None:
    elsewhere = FsspecBlobs(str(tmp_path / "other"))
    page = TestClient(create_app(store, elsewhere, tmp_path), base_url=LOOPBACK).get(link("tasks", rows.task.id))
    assert page.status_code == 200 and "The blob is not in this blob store." in page.text


def test_errors_have_one_shape(client: TestClient, rows: Rows) -> None:
    missing = "sha256:" + "0" * 64
    for address, status, reason in (
        ("/api/runs/nope", 404, "not_found"),
        ("/api/tasks/nope", 404, "not_found"),
        ("/api/tasks/nope/verdicts", 404, "not_found"),
        ("/api/rollouts/nope", 404, "not_found"),
        (f"/api/environments/{missing}", 404, "not_found"),
        (f"/api/blobs/{missing}", 404, "blob_missing"),
        ("/api/blobs/..%2Fetc", 404, "not_found"),
        ("/api/blobs/passwd", 404, "blob_missing"),
        ("/api/nothing/here", 404, "not_found"),
        (f"/api/runs/{RUN}/events?limit=0", 422, "usage"),
        (f"/api/runs/{RUN}/events?outcome=bad", 422, "usage"),
        (f"/api/runs/{RUN}/events?before=x", 422, "usage"),
    ):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason), address
        assert set(answer.json()) == {"reason", "message", "remedy"}
        assert answer.json()["message"].endswith("."), address
    assert client.post("/api/runs").status_code == 405
    page = client.get(f"/runs/{quote(SCRIPT, safe='')}")
    assert page.status_code == 404 and SCRIPT not in page.text
    page = client.get("/tasks/nope")
    assert page.status_code == 404 and "There is no task &#39;nope&#39;." in page.text


def test_a_store_that_is_gone_is_a_503(client: TestClient, store: Store, tmp_path: Path) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    store.close()
    (tmp_path / "farm.db").rename(tmp_path / "moved.db")
    (tmp_path / "farm.db").mkdir()
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "store_unreachable")


def test_empty_states_name_the_command_that_fills_them(client: TestClient, store: Store) -> None:
    assert "envfarm demo" in client.get("/").text
    with store.begin() as tx:
        tx.put_run("new run", "build", {})
    for address in ("/runs/new%20run", "/runs/new%20run/events", "/runs/new%20run/tasks"):
        assert "envfarm build --resume --run &#39;new run&#39;" in client.get(address).text, address
    store.queue.enqueue([work("mine", "pypi:x").model_copy(update={"run": "new run"})])
    assert "envfarm build --resume" in client.get("/runs/new%20run").text


def test_the_description_of_the_api_names_every_route_and_the_error(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert {"/healthz", "/api/runs", "/api/runs/{run}/events", "/api/tasks/{task_id}"} <= set(described["paths"])
    assert "ErrorBody" in described["components"]["schemas"]
    assert not any(path.startswith("/runs") for path in described["paths"]), "pages are not part of the API"
    for path, methods in described["paths"].items():
        assert set(methods) == {"get"}, path
