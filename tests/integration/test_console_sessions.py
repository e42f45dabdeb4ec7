"""Sessions of the console: who is let in, for how long, and that another site can use none of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from broker.access import AccessStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import ApiKey, Scope
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.console import EVIL, HTML, MARK, PAUSE, PEPPER, key_of, own, refuses_foreign_pages, sign_in
from tests.namespaces import check_and_empty, new_namespace
from tests.puppet import Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def keyed(valkey: EmbeddedServer) -> Iterator[ApiServer]:
    """One api with keys for all tests here. It forgives failed tries, which a test below counts at an api of its own."""
    with ApiServer(
        new_namespace(valkey), require_keys=True, key_pepper=PEPPER, failed_keys_per_minute=10_000
    ) as server:
        yield server


@pytest.fixture
def broker_settings(keyed: ApiServer) -> Iterator[BrokerSettings]:
    """The namespace of that api, which each test finds empty."""
    yield BrokerSettings(redis_url=keyed.settings.redis_url, namespace=keyed.settings.namespace)
    try:
        check_and_empty(keyed.settings)
    finally:
        keyed.renew()


@pytest_asyncio.fixture
async def web(keyed: ApiServer, broker_settings: BrokerSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without JavaScript: it keeps cookies and follows redirects."""
    async with keyed.client(follow_redirects=True, headers=HTML) as client:
        yield client


async def test_who_has_no_session_is_asked_for_a_key_and_comes_back(
    web: httpx.AsyncClient, store: JobStore
) -> None:
    page = await web.get("/console?of=mine")
    assert page.url.path == "/console/login"
    assert 'value="/console?of=mine"' in page.text
    key = await key_of(store, "alice")
    page = await sign_in(web, key, "/console?of=mine")
    assert (page.status_code, page.url.path, page.url.query) == (200, "/console", b"of=mine")
    assert "<strong>alice</strong>" in page.text
    set_cookie = page.history[0].headers["set-cookie"]
    assert re.fullmatch(r"penstock_console=[\w=-]+; Max-Age=43200; HttpOnly; SameSite=Strict", set_cookie)
    assert key not in page.text
    assert key not in set_cookie
    assert "set-cookie" not in (await web.get("/console/login")).headers
    dead = await web.get("/console/login", headers={"cookie": "penstock_console=dead"})
    assert dead.headers["set-cookie"].startswith("penstock_console=; Max-Age=0")  # of the path that set it
    page = await web.post("/console/logout", headers=own(web))
    assert page.url.path == "/console/login"
    assert (await web.get("/console")).url.path == "/console/login"


async def test_over_tls_the_cookie_stays_there(web: httpx.AsyncClient, store: JobStore) -> None:
    host = web.base_url.netloc.decode()
    form = {"key": await key_of(store, "alice")}
    proxied = {"origin": f"https://{host}"}
    got = await web.post("/console/login", data=form, headers=proxied, follow_redirects=False)
    assert got.headers["set-cookie"].endswith("; Secure")


async def test_people_sign_in_through_a_proxy_that_writes_another_host(
    keyed: ApiServer, web: httpx.AsyncClient, store: JobStore
) -> None:
    form = {"key": await key_of(store, "alice")}
    proxied = {"host": "upstream", "origin": "https://penstock.example"}
    page = await web.post("/console/login", data=form, headers=proxied)
    assert (page.status_code, page.headers["content-type"]) == (403, "text/html; charset=utf-8")
    assert "proxy_set_header Host" in page.text
    assert "set-cookie" not in page.headers
    over_tls = proxied | {"sec-fetch-site": "same-origin"}
    entered = await web.post("/console/login", data=form, headers=over_tls, follow_redirects=False)
    assert entered.status_code == 303
    assert "penstock_console=" in entered.headers["set-cookie"]
    with ApiServer(
        keyed.settings, require_keys=True, key_pepper=PEPPER, allowed_origins=["https://Penstock.example/"]
    ) as named:
        async with named.client() as client:
            entered = await client.post("/console/login", data=form, headers=proxied)
    assert entered.status_code == 303


async def test_signing_in_leads_nowhere_else(web: httpx.AsyncClient, store: JobStore) -> None:
    key = await key_of(store, "alice")
    for elsewhere in (
        "//evil.example/console",
        "https://evil.example",
        "/console/../v1",
        "/v1/jobs",
        "/console\\x",
        "/consoles",
    ):
        page = await sign_in(web, key, elsewhere)
        assert page.url.host == "127.0.0.1", elsewhere
        assert page.history[0].headers["location"].startswith("../console"), elsewhere


async def test_wrong_keys_are_told_so_and_counted(
    keyed: ApiServer, web: httpx.AsyncClient, store: JobStore
) -> None:
    got = await sign_in(web, str(ApiKey.new()))
    assert (got.status_code, "Incorrect API key" in got.text) == (401, True)
    for odd in ("", "two words", "\x00", "ключ", "k" * 20_000):
        got = await sign_in(web, odd)
        assert got.status_code in {400, 413}, odd
        assert "set-cookie" not in got.headers
    with ApiServer(keyed.settings, require_keys=True, key_pepper=PEPPER, failed_keys_per_minute=2) as strict:
        async with strict.client() as client:
            answers = [await sign_in(client, str(ApiKey.new())) for _ in range(3)]
    assert [got.status_code for got in answers] == [401, 401, 429]
    assert "too many" in answers[-1].text
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_revoked_key_ends_its_sessions_at_once(web: httpx.AsyncClient, store: JobStore) -> None:
    key = await key_of(store, "alice")
    assert (await sign_in(web, key)).url.path == "/console"
    parsed = ApiKey.parse(key)
    assert parsed is not None
    await AccessStore(store).revoke(parsed.id)

    async def asked_anew() -> httpx.Response | None:
        page = await web.get("/console")
        return page if page.url.path == "/console/login" else None

    await eventually(asked_anew)


async def test_a_cookie_of_somebody_else_opens_nothing(web: httpx.AsyncClient) -> None:
    for value in ("x", "AAAA" * 20, "%%%", "", "a" * 6000):
        for path in ("/console", "/console/api/v1/jobs", "/console/series?pool=default"):
            got = await web.get(path, headers={"cookie": f"penstock_console={value}"})
            assert got.status_code == 401 or got.url.path == "/console/login", (path, value)


async def test_the_scripts_call_the_api_as_the_session(
    web: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    assert (await web.get("/console/api/v1/jobs")).status_code == 401
    await sign_in(web, await key_of(store, "alice"))
    ours = MARK | own(web)
    body = {"input": {"model": "puppet", "messages": [{"role": "user", "content": "hi"}]}}
    made = await web.post("/console/api/v1/jobs", json=body, headers=ours)
    assert made.status_code == 202
    (job,) = (await web.get("/console/api/v1/jobs")).json()["data"]
    assert job["id"] == made.json()["id"]
    # Its own key counts, not one that the page brings.
    other = {"authorization": f"Bearer {await key_of(store, 'bob')}"}
    assert (await web.get(f"/console/api/v1/jobs/{job['id']}", headers=other)).status_code == 200
    assert (await web.post("/console/api/v1/queues/default/pause", headers=ours)).status_code == 403
    # A file that somebody uploaded is no page of ours, whatever is in it.
    assert "sandbox" in (await web.get("/console/api/v1/jobs")).headers["content-security-policy"]
    for path in ("/console/api/console", "/console/api/metrics", "/console/api/docs"):
        assert (await web.get(path)).status_code == 404


async def test_a_foreign_page_can_use_nothing_of_it(
    web: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    await sign_in(web, await key_of(store, "alice", [Scope.ADMIN]))
    await refuses_foreign_pages(web)
    for path in ("/console/login", "/console/logout"):
        assert (await web.post(path, data={"key": "x"}, headers=EVIL)).status_code == 403
        assert (await web.post(path, data={"key": "x"})).status_code == 403
    assert (await web.get("/console")).url.path == "/console"  # nobody was signed out
    assert (await web.post(PAUSE, headers=MARK | own(web))).status_code == 200


async def test_a_link_from_another_site_arrives_with_the_session(
    web: httpx.AsyncClient, store: JobStore
) -> None:
    await sign_in(web, await key_of(store, "alice"))
    page = await web.get("/console", headers={"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh"' in page.text
    assert "alice" not in page.text


async def test_what_a_caller_may_not_do_is_not_shown(
    web: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    await sign_in(web, await key_of(store, "alice"))
    assert "/pause" not in (await web.get("/console")).text
    await sign_in(web, await key_of(store, "root", [Scope.ADMIN]))
    assert "/pause" in (await web.get("/console")).text
    await sign_in(web, await key_of(store, "watcher", [Scope.METRICS]))
    assert (await web.get("/console")).url.path == "/console/workers"
    page = await web.get("/console/jobs")
    assert page.status_code == 403
    assert "jobs:read" in page.text
    await sign_in(web, await key_of(store, "uploader", [Scope.FILES]))
    assert (await web.get("/console")).status_code == 403  # no page is for it
