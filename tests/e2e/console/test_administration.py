"""The console's workers, keys, tenants, usage and audit in a real browser: a server with keys, and workers on strings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from broker.access import AccessStore
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import ApiKey, Scope
from jobs.model import Usage
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.e2e.console.conftest import check_accessible
from tests.namespaces import check_and_empty, new_namespace
from tests.puppet import Puppet

T = TypeVar("T")

PEPPER = "a pepper of the tests"
PAGES = ("workers", "batches", "playground", "usage", "keys", "tenants", "audit")
GPU = {
    "index": 0,
    "uuid": "GPU-0",
    "name": "NVIDIA H100 80GB HBM3",
    "utilization": 0.87,
    "memory_used_bytes": 71_000_000_000,
    "memory_total_bytes": 85_900_000_000,
    "temperature_c": 61.0,
    "power_w": 540.0,
}
BODY = {"model": "puppet", "messages": [{"role": "user", "content": "hi"}]}


class Site:
    """A server with keys, an administrator's key, and two live workers with some work behind them."""

    def __init__(self, api: ApiServer, key: str) -> None:
        self.api, self.key, self.url = api, key, api.url

    @asynccontextmanager
    async def store(self) -> AsyncIterator[JobStore]:
        settings = BrokerSettings(
            redis_url=self.api.settings.redis_url, namespace=self.api.settings.namespace
        )
        store = JobStore(connect(settings.redis_url), settings)
        try:
            yield store
        finally:
            await store.aclose()

    def do(self, act: Callable[[JobStore], Coroutine[Any, Any, T]]) -> T:
        """Do something with the store, in a thread of its own: the browser has this one's loop."""

        async def whole() -> T:
            async with self.store() as store:
                return await act(store)

        with ThreadPoolExecutor(1) as threads:
            return threads.submit(asyncio.run, whole()).result()

    def sign_in(self, page: Page, path: str = "/console/workers") -> None:
        page.goto(f"{self.url}{path}")
        if "/console/login" in page.url:
            page.get_by_label("API key or token").fill(self.key)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url(f"**{path}")


async def furnish(store: JobStore, key: ApiKey, url: str) -> None:
    """Make two workers, a tenant, and a job that has ended."""
    await AccessStore(store).create(
        key, PEPPER.encode(), tenant="root", scopes=frozenset({Scope.ADMIN}), name="operators"
    )
    said: dict[str, Any] = {
        "engine": "vllm",
        "state": "ready",
        "capacity": 64,
        "kv_cache_usage": 0.62,
        "gpus": [GPU],
        "started_at": 1.0,
    }
    first = Puppet(store, "gpu0@node1")
    await first.live(**said)
    await Puppet(store, "gpu1@node1", pool="other").live("second", **said)
    async with httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20
    ) as http:
        limits = {"weight": 3, "tokens_per_day": 100_000, "storage_bytes": 5_000_000}
        assert (await http.put("/v1/admin/tenants/search", json=limits)).status_code == 200
        assert (await http.post("/v1/jobs", json={"input": BODY})).status_code == 202
    await first.succeed(await first.take(), usage=Usage(30, 12, 42))


@pytest.fixture(scope="module")
def site(valkey: EmbeddedServer) -> Iterator[Site]:
    settings, key = new_namespace(valkey), ApiKey.new()
    with ApiServer(settings, require_keys=True, key_pepper=PEPPER, lease_ttl_s=600) as api:
        site = Site(api, str(key))
        site.do(lambda store: furnish(store, key, api.url))
        yield site
    check_and_empty(settings)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def test_a_worker_is_drained_after_a_question(page: Page, site: Site) -> None:
    site.sign_in(page)
    row = page.get_by_role("row").filter(has_text="gpu0@node1")
    expect(row).to_contain_text("62 %")
    expect(row).to_contain_text("87 % busy")
    row.get_by_role("button", name="Drain").click()
    expect(page.locator("#ask")).to_contain_text("Drain gpu0@node1?")
    page.keyboard.press("Escape")
    row.get_by_role("button", name="Drain").click()
    page.locator("#ask-yes").click()
    expect(page.locator("#toasts")).to_contain_text("gpu0@node1 drains")

    async def ordered(store: JobStore) -> dict[str, str]:
        return await Puppet(store, "gpu0@node1").beat()

    assert "drain" in site.do(ordered)
    check_accessible(page)


def test_a_key_is_shown_once_rotated_and_revoked(page: Page, site: Site) -> None:
    site.sign_in(page, "/console/keys")
    page.get_by_role("button", name="New key").click()
    form = page.locator("#key-form")
    form.get_by_label("Tenant").fill("no spaces")
    form.get_by_role("button", name="Make the key").click()
    expect(form).to_be_visible()  # the field says what is wrong
    form.get_by_label("Tenant").fill("search")
    form.get_by_label("Name, for people").fill("nightly run")
    form.get_by_label("Expires").select_option("in 30 days")
    form.get_by_label("batches").uncheck()
    check_accessible(page)
    form.get_by_role("button", name="Make the key").click()
    secret = page.locator("#secret")
    expect(secret).to_have_text(re.compile("^psk_"))
    first = secret.inner_text()
    asked = {"authorization": f"Bearer {first}"}
    me = httpx.get(f"{site.url}/v1/me", headers=asked).json()
    assert (me["tenant"], set(me["scopes"])) == ("search", {"files", "jobs:read", "jobs:write"})
    page.get_by_role("button", name="I have it").click()
    row = page.get_by_role("row").filter(has_text="nightly run")
    expect(row).to_contain_text("active")
    assert first not in page.content()

    row.get_by_role("button", name="Rotate").click()
    page.get_by_label("The secret until now stays right for").select_option("no time: it is wrong at once")
    page.locator("#rotate-form").get_by_role("button", name="Rotate").click()
    expect(secret).to_have_text(re.compile("^psk_"))
    assert secret.inner_text() != first
    page.keyboard.press("Escape")
    expect(secret).to_have_text("")

    row.get_by_role("button", name="Revoke").click()
    page.locator("#ask-yes").click()
    expect(row).to_contain_text("revoked")


def test_tenants_usage_and_audit_are_reached_by_the_keyboard(page: Page, site: Site) -> None:
    site.sign_in(page, "/console/tenants")
    expect(page.get_by_role("row").filter(has_text="search")).to_contain_text("0 of 100,000")
    page.get_by_role("link", name="Usage").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/usage")
    expect(page.locator("#usage-chart canvas")).to_be_visible()
    expect(page.get_by_role("region", name="By model")).to_contain_text("puppet")
    with page.expect_download() as loading:
        page.get_by_role("button", name="CSV").click()
    assert re.fullmatch(r"penstock-usage-[\d-]+-30d-by-model\.csv", loading.value.suggested_filename)
    check_accessible(page)
    page.get_by_role("link", name="Audit").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Act or kind").fill("tenant")
    page.keyboard.press("Enter")
    page.wait_for_url("**what=tenant**")
    expect(page.get_by_role("row").filter(has_text="tenant.set")).to_be_visible()


@pytest.mark.full
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_no_page_is_wider_than_its_screen(
    browser: Browser, site: Site, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    for name in PAGES:
        site.sign_in(page, f"/console/{name}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        check_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert said == []
    context.close()
