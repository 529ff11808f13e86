"""The pages in Debian's Chromium, served by uvicorn over a store that workers write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from envfarm.api import create_app
from envfarm.cli.serve import address, listen
from envfarm.core.ports import StageOutcome
from envfarm.core.work import StageResult
from envfarm.dashboard.links import link
from envfarm.dashboard.report import render_report
from envfarm.store import FsspecBlobs, Store

from ..farm_rows import RUN, SCRIPT, Rows, end, fill
from ..unit.test_report import REPORT

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt-get install chromium"),
]


@dataclass
class Farm:
    """A server and what its store holds."""

    url: str
    store: Store
    rows: Rows


@dataclass
class Watched:
    """A page and everything it complained about or asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    blobs = FsspecBlobs(str(tmp_path / "blobs"))
    listener = listen("127.0.0.1", 0)
    with Store.open(f"sqlite:///{tmp_path / 'farm.db'}") as store, listener:
        rows = fill(store, blobs)
        server = uvicorn.Server(uvicorn.Config(create_app(store, blobs, tmp_path), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Farm(address(listener).rstrip("/"), store, rows)
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # the tests run as root in containers, where Chromium's own sandbox does not start
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def watched(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    page.set_default_timeout(15_000)
    seen = Watched(page)
    page.on("console", lambda message: seen.errors.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda asked: seen.requests.append(asked.url))
    yield seen
    page.close()


def is_sound(watched: Watched, farm_url: str) -> None:
    """Nothing hostile ran, nothing was refused or missing, nothing came from elsewhere, no sideways scrolling."""
    page = watched.page
    assert page.title() != "owned"
    assert watched.errors == []
    assert all(url.startswith(farm_url) for url in watched.requests), watched.requests
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_every_page_is_sound(farm: Farm, watched: Watched) -> None:
    rows = farm.rows
    for path in (
        "/",
        link("runs", RUN),
        link("runs", RUN, repo=f"evil{SCRIPT}"),
        link("runs", RUN, "events"),
        link("runs", RUN, "tasks"),
        link("runs", RUN, "repositories"),
        link("runs", RUN, "candidates", "evil__evil-1"),
        link("tasks", rows.task.id),
        link("tasks", rows.invalid.id),
        link("rollouts", rows.rollout.id),
        link("environments", rows.environment.digest),
        link("logs", rows.log),
    ):
        watched.page.goto(farm.url + path)
        is_sound(watched, farm.url)
        assert watched.page.locator("main h1").count() == 1, path
        unlabelled = "form input:not(label input), form select:not(label select), table:not(:has(caption))"
        assert watched.page.locator(unlabelled).count() == 0, path


def test_from_a_number_to_the_log_behind_it(farm: Farm, watched: Watched) -> None:
    page = watched.page
    page.goto(farm.url)
    page.get_by_role("link", name=RUN, exact=True).click()
    page.locator("#s-base-failed").click()
    expect(page).to_have_url(f"{farm.url}/runs/{RUN}/events?stage=base&outcome=failed")
    expect(page.get_by_text("1 ended item matches")).to_be_visible()
    page.get_by_text("more", exact=True).click()
    expect(page.get_by_text("error: command 'gcc' failed")).to_be_visible()
    page.get_by_role("link", name="log", exact=True).click()
    expect(page.locator("pre")).to_contain_text("FAILED tests/test_utils.py")
    expect(page.locator("pre")).to_contain_text(SCRIPT)
    is_sound(watched, farm.url)


def test_the_funnel_follows_the_workers_and_keeps_the_focus(farm: Farm, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{farm.url}/runs/{RUN}")
    expect(page.locator("#s-filter-done")).to_have_text("2")
    page.locator("#s-filter-done").focus()
    end(farm.store, "filter", "one-more")
    expect(page.locator("#s-filter-done")).to_have_text("3")
    assert page.evaluate("document.activeElement.id") == "s-filter-done"
    for _ in range(2):
        lease = farm.store.queue.lease(RUN, ["rollout"], "worker-1", 60)
        assert lease is not None
        farm.store.queue.finish(lease, StageResult(outcome=StageOutcome.done))
    expect(page.locator("h2 .tag").first).to_have_text("finished")
    assert page.locator("#progress[hx-trigger]").count() == 0, "a finished run is not asked for again"
    is_sound(watched, farm.url)


def test_a_filter_stays_in_the_address(farm: Farm, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{farm.url}/runs/{RUN}/events")
    page.get_by_label("stage").select_option("validate")
    page.get_by_label("outcome").select_option("rejected")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("1 ended item matches")).to_be_visible()
    assert "stage=validate" in page.url and "outcome=rejected" in page.url
    expect(page.get_by_label("stage")).to_have_value("validate")
    page.get_by_role("link", name=farm.rows.invalid.id).click()
    expect(page.locator("#validation")).to_contain_text("no_f2p")


def test_the_keyboard_reaches_the_content_first(farm: Farm, watched: Watched) -> None:
    page = watched.page
    page.goto(farm.url)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()


def test_the_report_opens_from_a_file_and_asks_for_nothing(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render_report(REPORT))
    watched.page.goto(file.as_uri())
    is_sound(watched, file.as_uri())
    assert watched.requests == [file.as_uri()]
    expect(watched.page.get_by_role("heading", name="Environment success")).to_be_visible()
