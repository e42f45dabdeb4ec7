"""The console's frame: who is let in, whose pages may use its addresses, and what its pages may load."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Collection, Iterator

import httpx
import pytest
import pytest_asyncio

from api.console import assets
from broker.access import AccessStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import TENANT_SCOPES, ApiKey, Scope
from tests.apiserver import ApiServer
from tests.puppet import Puppet
from tools.vendor_console import LIST, check

pytestmark = pytest.mark.asyncio

PEPPER = "a pepper of the tests"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MARK = {"x-penstock-console": "1"}
EVIL = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


@pytest.fixture
def keyed(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, require_keys=True, key_pepper=PEPPER) as server:
        yield server


@pytest_asyncio.fixture
async def web(keyed: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without JavaScript: it keeps cookies and follows redirects."""
    async with keyed.client(follow_redirects=True, headers=HTML) as client:
        yield client


async def key_of(store: JobStore, tenant: str, scopes: Collection[Scope] = TENANT_SCOPES) -> str:
    key = ApiKey.new()
    await AccessStore(store).create(key, PEPPER.encode(), tenant=tenant, scopes=scopes)
    return str(key)


async def sign_in(web: httpx.AsyncClient, key: str, then: str = "/console") -> httpx.Response:
    own = {"origin": str(web.base_url).rstrip("/")}
    return await web.post("/console/login", data={"key": key, "next": then}, headers=own)


async def test_a_browser_is_led_to_the_console_and_a_program_is_not(http: httpx.AsyncClient) -> None:
    got = await http.get("/", headers=HTML)
    assert (got.status_code, got.headers["location"]) == (307, "console")
    facts = (await http.get("/")).json()
    assert (facts["name"], facts["links"]["console"]) == ("Penstock", "/console")


async def test_without_keys_there_is_nothing_to_sign_in_to(http: httpx.AsyncClient, puppet: Puppet) -> None:
    page = await http.get("/console")
    assert page.status_code == 200
    assert ">default</h2>" in page.text
    assert "set-cookie" not in page.headers
    assert (await http.get("/console/login")).headers["location"] == "../console"
    me = (await http.get("/v1/me")).json()
    assert me == {
        "object": "me",
        "tenant": "default",
        "key": None,
        "scopes": [scope.value for scope in Scope],
        "models": None,
        "keys_required": False,
    }


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
    own = {"origin": str(web.base_url)}
    page = await web.post("/console/logout", headers=own)
    assert page.url.path == "/console/login"
    assert (await web.get("/console")).url.path == "/console/login"


async def test_over_tls_the_cookie_stays_there(web: httpx.AsyncClient, store: JobStore) -> None:
    host = web.base_url.netloc.decode()
    form = {"key": await key_of(store, "alice")}
    proxied = {"origin": f"https://{host}"}
    got = await web.post("/console/login", data=form, headers=proxied, follow_redirects=False)
    assert got.headers["set-cookie"].endswith("; Secure")


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


async def test_wrong_keys_are_told_so_and_counted(web: httpx.AsyncClient) -> None:
    answers = [await sign_in(web, str(ApiKey.new())) for _ in range(40)]
    assert answers[0].status_code == 401
    assert "Incorrect API key" in answers[0].text
    assert answers[-1].status_code == 429
    assert "too many" in answers[-1].text
    for odd in ("", "two words", "\x00", "ключ", "k" * 20_000):
        got = await sign_in(web, odd)
        assert got.status_code in {400, 413}, odd
        assert "set-cookie" not in got.headers


async def test_a_revoked_key_ends_its_sessions_at_once(web: httpx.AsyncClient, store: JobStore) -> None:
    key = await key_of(store, "alice")
    assert (await sign_in(web, key)).url.path == "/console"
    parsed = ApiKey.parse(key)
    assert parsed is not None
    await AccessStore(store).revoke(parsed.id)
    for _ in range(40):
        page = await web.get("/console")
        if page.url.path == "/console/login":
            break
        await asyncio.sleep(0.1)
    assert page.url.path == "/console/login"
    assert page.history[0].headers["set-cookie"].startswith("penstock_console=; Max-Age=0")


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
    own = MARK | {"origin": str(web.base_url).rstrip("/")}
    body = {"input": {"model": "puppet", "messages": [{"role": "user", "content": "hi"}]}}
    made = await web.post("/console/api/v1/jobs", json=body, headers=own)
    assert made.status_code == 202
    (job,) = (await web.get("/console/api/v1/jobs")).json()["data"]
    assert job["id"] == made.json()["id"]
    # Its own key counts, not one that the page brings.
    other = {"authorization": f"Bearer {await key_of(store, 'bob')}"}
    assert (await web.get(f"/console/api/v1/jobs/{job['id']}", headers=other)).status_code == 200
    assert (await web.post("/console/api/v1/queues/default/pause", headers=own)).status_code == 403
    for path in ("/console/api/console", "/console/api/metrics", "/console/api/docs"):
        assert (await web.get(path)).status_code == 404


async def test_a_foreign_page_can_use_nothing_of_it(
    http: httpx.AsyncClient, web: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    await sign_in(web, await key_of(store, "alice", [Scope.ADMIN]))
    own = str(web.base_url).rstrip("/")
    pause = "/console/api/v1/queues/default/pause"
    for client in (http, web):
        for headers in (
            EVIL | MARK,
            {"origin": "null"} | MARK,
            {"sec-fetch-site": "same-site"} | MARK,
            MARK,  # no browser sends a POST without an origin
            {"origin": str(client.base_url).rstrip("/")},  # what a form could send
        ):
            got = await client.post(pause, headers=headers)
            assert (got.status_code, got.json()["error"]["code"]) == (403, "origin_not_allowed"), headers
        assert (await client.get("/console/api/v1/jobs", headers=EVIL)).status_code == 403
        assert (await client.get("/console/events?page=/console", headers=EVIL)).status_code == 403
    for path in ("/console/login", "/console/logout"):
        assert (await web.post(path, data={"key": "x"}, headers=EVIL)).status_code == 403
        assert (await web.post(path, data={"key": "x"})).status_code == 403
    assert (await web.get("/console")).url.path == "/console"  # nobody was signed out
    assert (await web.post(pause, headers=MARK | {"origin": own})).status_code == 200


async def test_a_link_from_another_site_arrives_with_the_session(
    web: httpx.AsyncClient, store: JobStore
) -> None:
    await sign_in(web, await key_of(store, "alice"))
    page = await web.get("/console", headers={"sec-fetch-site": "cross-site"})
    assert 'http-equiv="refresh"' in page.text
    assert "alice" not in page.text


async def test_a_page_loads_only_what_this_server_sends(http: httpx.AsyncClient) -> None:
    page = await http.get("/console")
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'self'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert not re.search(
        r"<script(?! src=)|<style|\sstyle=|\son\w+=|(?:src|href)=\"(?:https?:)?//", page.text
    )
    total = 0
    for path in re.findall(r'(?:src|href)="(console/static/[^"]+)"', page.text):
        got = await http.get(f"/{path}", headers={"accept-encoding": "gzip"})
        assert got.status_code == 200, path
        assert "immutable" in got.headers["cache-control"]
        assert got.headers["x-content-type-options"] == "nosniff"
        total += len(assets.packed(path.rpartition("/")[2]))
    assert total < 64_000, f"{total} bytes, packed"
    every = sum(len(assets.packed(name)) for name in assets.names())
    assert every < 80_000, f"{every} bytes of all pages, packed"
    for name in ("none.js", "..%2frender.py", "../render.py", "VENDORED.json"):
        assert (await http.get(f"/console/static/x/{name}")).status_code == 404, name


async def test_open_pages_get_what_has_changed(http: httpx.AsyncClient, puppet: Puppet) -> None:
    events = []
    async with http.stream("GET", "/console/events", params={"page": "/console"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
            if len(events) == 1 and line.startswith("data: "):
                assert {"live_totals", "live_pools", "live_status"} == set(events[0])
                await puppet.store.pause("default", paused=True)
            if len(events) == 2:
                break
    assert "paused" in events[1]["live_pools"]
    assert "live_totals" in events[1]
    assert (await http.get("/console/events?page=/console/none")).status_code == 404
    assert (await http.get("/console/events")).status_code == 404


async def test_what_a_caller_may_not_do_is_not_shown(
    web: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    await sign_in(web, await key_of(store, "alice"))
    assert "/pause" not in (await web.get("/console")).text
    await sign_in(web, await key_of(store, "root", [Scope.ADMIN]))
    assert "/pause" in (await web.get("/console")).text
    await sign_in(web, await key_of(store, "watcher", [Scope.METRICS]))
    page = await web.get("/console")
    assert page.status_code == 403
    assert "jobs:read" in page.text


async def test_the_files_of_others_are_those_of_the_list() -> None:
    assert check(json.loads(LIST.read_text())) == []
    ours = {"console.js", "console.css", "logo.svg"}
    assert {one["file"] for one in json.loads(LIST.read_text())} == {
        name for name in assets.names() if ".min." in name
    }
    assert ours <= assets.names()
