"""The reference at /docs in a real browser: it shows every route, and asks no other server for anything."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import Page

from broker.settings import BrokerSettings
from tests.apiserver import ApiServer


def test_the_reference_without_the_internet(page: Page, broker_settings: BrokerSettings) -> None:
    asked, said = [], []
    page.on("request", lambda request: asked.append(urlsplit(request.url)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    with ApiServer(broker_settings) as api:
        page.goto(f"{api.url}/docs")
        page.get_by_text("/v1/chat/completions").first.wait_for()
        page.get_by_text("/health/ready").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.get_by_text("not_ready").first.wait_for()  # our own page may call us
        page.get_by_role("button", name="Authorize").click()
        page.get_by_role("textbox", name="auth-bearer-value").fill("psk_1")
        page.locator(".auth-container").get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close").click()
        page.get_by_text("/v1/queues", exact=True).first.click()
        page.locator("#operations-operations-listQueues").get_by_role("button", name="Try it out").click()
        page.locator("#operations-operations-listQueues").get_by_role("button", name="Execute").click()
        page.get_by_text("Authorization: Bearer psk_1").first.wait_for()  # in the curl command of the call
        page.goto(api.url)
        page.get_by_text("Not ready").first.wait_for()
    assert {url.netloc for url in asked if url.scheme != "data"} == {urlsplit(api.url).netloc}
    assert [text for text in said if "503" not in text] == []
