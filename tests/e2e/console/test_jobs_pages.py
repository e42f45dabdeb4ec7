"""The console's pages of queues and jobs, as somebody uses them: with a mouse, a keyboard, and a screen reader's needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.apiserver import ApiServer
from tests.e2e.console.conftest import check_accessible
from tests.redisproxy import RedisProxy
from tests.support import wait_until

pytestmark = pytest.mark.xdist_group("console")

HOSTILE = "<script>window.hurt=1</script><img src=x onerror=\"window.hurt=1\">{{7*7}}' hx-get='/console"

HIDE = (
    "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    "document.dispatchEvent(new Event('visibilitychange'))"
)


def submit(http: httpx.Client, text: str = "hi", **more: Any) -> str:
    given = {"model": "simulated", "messages": [{"role": "user", "content": text}]}
    given |= {name: more.pop(name) for name in ("max_tokens", "stream") if name in more}
    got = http.post("/v1/jobs", json={"input": given} | more)
    return str(got.raise_for_status().json()["id"])


def state(http: httpx.Client, job_id: str) -> str:
    return str(http.get(f"/v1/jobs/{job_id}").json()["state"])


def ended(http: httpx.Client, job_id: str) -> str:
    return str(http.get(f"/v1/jobs/{job_id}", params={"wait": 20}).json()["state"])


def test_a_pool_is_paused_and_resumed(
    console: ApiServer, http: httpx.Client, page: Page, said: list[str]
) -> None:
    asked = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).netloc))
    page.goto(console.url)
    expect(page).to_have_url(f"{console.url}/console")
    expect(page.locator("#pulse")).to_have_text("live")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#toasts")).to_contain_text("is paused")
    expect(page.locator("article .state")).to_have_text("paused")
    waiting = submit(http)
    expect(page.locator("article tr", has_text="normal").locator(".num").first).to_have_text("1")
    check_accessible(page)
    page.get_by_role("button", name="Resume").focus()
    page.keyboard.press("Enter")
    expect(page.locator("article .state")).to_have_text("serves")
    assert ended(http, waiting) == "succeeded"
    assert set(asked) == {urlsplit(console.url).netloc}


def test_the_filters_are_in_the_address(
    console: ApiServer, http: httpx.Client, page: Page, said: list[str]
) -> None:
    good, bad = submit(http, max_tokens=3), submit(http, max_tokens=-1)
    assert (ended(http, good), ended(http, bad)) == ("succeeded", "failed")
    page.goto(f"{console.url}/console/jobs")
    check_accessible(page)
    page.get_by_label("State").select_option("failed")
    expect(page.locator(f"#row-{bad}")).to_be_visible()
    expect(page.locator(f"#row-{good}")).to_have_count(0)
    expect(page).to_have_url(re.compile("state=failed"))
    later = submit(http, max_tokens=-1)
    expect(page.locator(f"#row-{later}")).to_be_visible()  # the parts that come follow the filter
    page.reload()
    expect(page.locator(f"#row-{later}")).to_be_visible()
    expect(page.locator(f"#row-{good}")).to_have_count(0)
    page.locator(f"#row-{bad} a").click()
    expect(page.locator(".acts .banner")).to_contain_text("invalid_request")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert '"max_tokens":-1' in download.value.path().read_text().replace(" ", "")


def test_a_job_streams_and_is_cancelled(
    console: ApiServer, http: httpx.Client, page: Page, said: list[str]
) -> None:
    job_id = submit(http, HOSTILE, max_tokens=8000, stream=True, metadata={"<b>k": HOSTILE})
    page.goto(f"{console.url}/console/jobs/{job_id}")
    expect(page.locator("#stream")).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    expect(page.locator(".said").first).to_contain_text(HOSTILE)
    page.evaluate(HIDE % "true")
    seen = page.locator("#stream").inner_text()
    page.evaluate(HIDE % "false")  # it continues where it was
    wait_until(lambda: len(page.locator("#stream").inner_text()) > len(seen))
    assert page.locator("#stream").inner_text().startswith(seen)
    check_accessible(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    assert state(http, job_id) == "running"
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".acts .state")).to_have_text("cancelled")
    expect(page.locator(".timeline")).to_contain_text("Cancelled")
    assert page.evaluate("window.hurt") is None
    check_accessible(page)


def test_the_dead_are_retried_together(
    console: ApiServer, http: httpx.Client, page: Page, said: list[str]
) -> None:
    http.post("/v1/dead/retry", json={"limit": 1000})  # of the tests before
    wait_until(lambda: not http.get("/v1/jobs?state=running").json()["data"])
    http.post("/v1/queues/default/pause").raise_for_status()
    ids = [submit(http, expires_in_s=0.05) for _ in range(3)]
    assert {ended(http, one) for one in ids} == {"expired"}
    page.goto(f"{console.url}/console/dead?code=expired&model=simulated")
    expect(page.locator(f"#row-{ids[0]}")).to_be_visible()
    check_accessible(page)
    page.get_by_role("button", name="Retry 3").click()
    expect(page.get_by_role("dialog")).to_contain_text("Retry 3 jobs of simulated that ended with expired?")
    page.get_by_role("dialog").get_by_role("button", name="Retry 3").click()
    expect(page.locator("#toasts")).to_contain_text("3 retried")
    expect(page.locator(f"#row-{ids[0]}")).to_have_count(0)
    assert all(http.get(f"/v1/jobs/{one}").json()["retried_as"] for one in ids)
    http.post("/v1/queues/default/resume").raise_for_status()


def test_a_queued_job_is_moved(console: ApiServer, http: httpx.Client, page: Page, said: list[str]) -> None:
    http.post("/v1/queues/default/pause").raise_for_status()
    first, job_id = submit(http, priority="low"), submit(http, priority="low")
    page.goto(f"{console.url}/console/jobs/{job_id}")
    page.get_by_role("button", name="To the top").click()
    expect(page.locator(".acts")).to_contain_text("the next one")
    page.get_by_label("Lane").select_option("high")
    page.get_by_role("button", name="Move").click()
    expect(page.locator(".facts")).to_contain_text("default, high")
    http.post("/v1/queues/default/resume").raise_for_status()
    assert {ended(http, one) for one in (first, job_id)} == {"succeeded"}
    expect(page.locator(".acts .state")).to_have_text("succeeded")


def test_a_hidden_page_asks_for_nothing(
    console: ApiServer, http: httpx.Client, page: Page, said: list[str]
) -> None:
    streams = []
    page.on(
        "request", lambda request: streams.append(request.url) if "/console/events" in request.url else None
    )

    def over() -> float:
        found = re.search(
            r'api_requests_total{endpoint="/console/events",.*} (.+)', http.get("/metrics").text
        )
        return 0.0 if found is None else float(found[1])

    page.goto(f"{console.url}/console")
    expect(page.locator("#pulse")).to_have_text("live")
    before = over()
    page.evaluate(HIDE % "true")
    expect(page.locator("#pulse")).to_have_text("paused")
    wait_until(lambda: over() > before)
    assert len(streams) == 1
    page.evaluate(HIDE % "false")
    expect(page.locator("#pulse")).to_have_text("live")
    assert len(streams) == 2


def test_the_keyboard_reaches_everything(console: ApiServer, page: Page, said: list[str]) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{console.url}/console")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    menu = page.get_by_role("button", name="Menu")
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Dead jobs")).to_be_visible()
    check_accessible(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Dead jobs")).to_be_hidden()
    menu.click()
    page.get_by_role("button", name="Theme").click()  # system, then light
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto(f"{console.url}/console/jobs")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.full
def test_without_redis_a_page_says_so_and_comes_back(console: ApiServer, page: Page, tmp_path: Path) -> None:
    with RedisProxy(console.settings.redis_url, tmp_path / "redis") as proxy:
        base = console.settings.model_copy(update={"redis_url": proxy.url})
        with ApiServer(base) as api:
            page.goto(f"{api.url}/console")
            expect(page.locator("#pulse")).to_have_text("live")
            proxy.lose = b""  # every command
            expect(page.locator("#pulse")).to_contain_text("Redis")
            expect(page.locator(".banner")).to_contain_text("Not ready")
            page.goto(f"{api.url}/console/jobs")
            expect(page.get_by_role("heading", name="Not available now")).to_be_visible()
            proxy.lose = None
            expect(page.locator(".filters")).to_be_visible()
            expect(page.locator("#pulse")).to_have_text("live")


@pytest.fixture
def keyed(console: ApiServer, browser: Browser) -> Iterator[tuple[ApiServer, Page]]:
    """An api with keys on the same Redis, and a browser of its own without a session."""
    with ApiServer(
        console.settings, api_keys={"orchid-team": "sk-orchid"}, key_pepper="a pepper of the tests"
    ) as api:
        page = browser.new_page()
        yield api, page
        page.close()


def test_who_has_a_key_signs_in_and_out(keyed: tuple[ApiServer, Page]) -> None:
    api, page = keyed
    page.goto(f"{api.url}/console/jobs?state=failed")
    expect(page.get_by_label("API key or token")).to_be_focused()
    check_accessible(page)
    page.keyboard.type("sk-wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Incorrect API key")
    page.get_by_label("API key or token").fill("sk-orchid")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{api.url}/console/jobs?state=failed")
    expect(page.locator(".who")).to_contain_text("orchid-team")
    assert page.evaluate("document.cookie") == ""
    page.goto(f"{api.url}/console")
    expect(page.locator("#pulse")).to_have_text("live")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{api.url}/console/login")
    page.goto(f"{api.url}/console/jobs")
    expect(page.get_by_label("API key or token")).to_be_visible()
