"""The console's pages of workers, batches, models and administration, as a browser without JavaScript gets them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.access import AccessStore
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from broker.settings import BrokerSettings
from jobs.access import TENANT_SCOPES, ApiKey, Scope
from jobs.model import Usage
from jobs.rollouts import Mode
from tests.apiserver import ApiServer
from tests.puppet import Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

PEPPER = "a pepper of the tests"
HOSTILE = "<img src=x onerror=alert(1)>"
GPU = {
    "index": 3,
    "uuid": "GPU-3",
    "name": "H100",
    "utilization": 0.5,
    "memory_used_bytes": 40_000_000_000,
    "memory_total_bytes": 80_000_000_000,
    "temperature_c": 61.0,
    "power_w": 400.0,
}
PAGES = ("workers", "batches", "playground", "usage", "keys", "tenants", "audit")
BODY = {"model": "puppet", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def keyed(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, require_keys=True, key_pepper=PEPPER) as server:
        yield server


@pytest_asyncio.fixture
async def web(keyed: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with keyed.client(follow_redirects=True) as client:
        yield client


async def sign_in(web: httpx.AsyncClient, store: JobStore, tenant: str, *scopes: Scope) -> ApiKey:
    key = ApiKey.new()
    await AccessStore(store).create(
        key, PEPPER.encode(), tenant=tenant, scopes=frozenset(scopes) or TENANT_SCOPES
    )
    own = {"origin": str(web.base_url).rstrip("/")}
    page = await web.post("/console/login", data={"key": str(key)}, headers=own)
    assert page.status_code == 200
    return key


async def upload(http: httpx.AsyncClient, text: str, **more: object) -> httpx.Response:
    file = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("rows.jsonl", text)})
    asked = {
        "input_file_id": file.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    return await http.post("/v1/batches", json=asked | more)


async def test_every_page_is_there_on_an_empty_server(http: httpx.AsyncClient) -> None:
    for name in PAGES:
        page = await http.get(f"/console/{name}")
        assert page.status_code == 200, (name, page.text)
        assert "unsafe" not in page.headers["content-security-policy"]
        assert 'aria-current="page"' in page.text, name
    gone = await http.get(f"/console/batches/batch_{7:032x}")
    assert gone.status_code == 404
    assert "does not exist" in gone.text


async def test_a_page_for_administrators_is_neither_named_nor_shown_to_others(
    web: httpx.AsyncClient, store: JobStore
) -> None:
    await sign_in(web, store, "alice")
    page = (await web.get("/console/batches")).text
    for name in ("keys", "tenants", "audit", "workers"):
        assert f"console/{name}" not in page, name
        assert (await web.get(f"/console/{name}")).status_code == 403, name
    assert "console/usage" in page
    assert "Administer" not in page
    assert "of all tenants together" in (await web.get("/console")).text
    await sign_in(web, store, "watcher", Scope.METRICS)
    seen = await web.get("/console/workers")
    assert seen.status_code == 200
    assert "Drain" not in seen.text
    assert (await web.get("/console/batches")).status_code == 403
    await sign_in(web, store, "root", Scope.ADMIN)
    assert "of all tenants together" not in (await web.get("/console")).text
    assert all([(await web.get(f"/console/{name}")).status_code == 200 for name in PAGES])


async def test_workers_show_what_they_report(http: httpx.AsyncClient, store: JobStore) -> None:
    said: dict[str, Any] = {
        "name": f"gpu3 {HOSTILE}",
        "engine": "vllm",
        "state": "ready",
        "capacity": 16,
        "kv_cache_usage": 0.83,
        "tokens_per_s": 1234.5,
        "gpus": [GPU],
        "adapters": ["one"],
        "started_at": 1.0,
    }
    await Puppet(store, "puppet-1").live(aliases=["small"], **said)
    beat = said | {"pool": "default", "models": ["puppet"], "aliases": ["small"]}
    await store.heartbeat("puppet-1", info=beat)
    await Puppet(store, "puppet-2", pool="other").live("second", state="waking", capacity=4)
    page = (await http.get("/console/workers")).text
    for shown in ("1 ready, 1 waking", "83 %", "1,234", "3: H100", "61 °C", "also called small"):
        assert shown in page, shown
    assert "40.0 GB of 80.0 GB" in page
    assert HOSTILE not in page
    assert "/v1/workers/puppet-2/drain" in page


async def test_workers_are_shown_beside_new_versions(http: httpx.AsyncClient, store: JobStore) -> None:
    await Puppet(store, "puppet-1", pool="chat").live()
    rollouts = Rollouts(store)
    old = await rollouts.get("chat")
    assert await rollouts.write(old, old.start("org/newer", (), Mode.SURGE, frozenset({"chat"})))
    page = (await http.get("/console/workers")).text
    for shown in ("New versions", "org/newer", "chat-v2, surge", "starting", "as the settings say"):
        assert shown in page, shown


async def test_a_batch_shows_the_errors_of_its_input(http: httpx.AsyncClient) -> None:
    made = await upload(http, "not json\n", metadata={"filename": HOSTILE, "why": "nightly"})
    ident = made.json()["id"]
    for path in ("/console/batches", f"/console/batches/{ident}"):
        page = (await http.get(path)).text
        assert ident in page
        assert HOSTILE not in page
    assert "nightly" in page
    unnamed = (await upload(http, "x\n")).json()["id"]
    assert f">{unnamed}</a>" in (await http.get("/console/batches")).text


async def test_other_tenants_batches_are_not_there(web: httpx.AsyncClient, store: JobStore) -> None:
    key = await sign_in(web, store, "alice")
    async with httpx.AsyncClient(
        base_url=web.base_url, headers={"authorization": f"Bearer {key}"}, timeout=20
    ) as alice:
        ident = (await upload(alice, "x\n")).json()["id"]
    assert ident in (await web.get("/console/batches")).text
    await sign_in(web, store, "bob")
    assert ident not in (await web.get("/console/batches")).text
    assert (await web.get(f"/console/batches/{ident}")).status_code == 404


async def test_lists_go_on_to_the_next_page(http: httpx.AsyncClient) -> None:
    made = [(await upload(http, "x\n")).json()["id"] for _ in range(26)]
    page = (await http.get("/console/batches")).text
    assert made[1] in page
    assert made[0] not in page
    page = (await http.get("/console/batches", params={"after": made[1]})).text
    assert made[0] in page
    assert "First page" in page
    assert (await http.get("/console/batches", params={"after": "nonsense"})).status_code == 400


async def test_the_playground_offers_what_writes_text(http: httpx.AsyncClient, store: JobStore) -> None:
    await Puppet(store).live("talks")
    await Puppet(store, "puppet-2", pool="vectors").live("embeds", facts={"endpoints": ["/v1/embeddings"]})

    async def offered() -> str:
        page = (await http.get("/console/playground")).text
        return page if ">talks</option>" in page else ""

    assert "embeds" not in await eventually(offered)


async def test_tenants_show_what_they_have_used(web: httpx.AsyncClient, store: JobStore) -> None:
    key = await sign_in(web, store, "root", Scope.ADMIN)
    async with httpx.AsyncClient(
        base_url=web.base_url, headers={"authorization": f"Bearer {key}"}, timeout=20
    ) as root:
        limits = {"weight": 2.5, "tokens_per_day": 1000, "storage_bytes": 5_000_000, "lanes": ["bulk"]}
        assert (await root.put("/v1/admin/tenants/alice", json=limits)).status_code == 200
    page = (await web.get("/console/tenants")).text
    for shown in ("alice", "2.5", "0 of 1,000", "0 B of 5.0 MB", "lanes bulk"):
        assert shown in page, shown
    page = (await web.get("/console/audit", params={"what": "tenant"})).text
    assert "tenant.set" in page
    assert "key.create" not in page
    keys = (await web.get("/console/keys")).text
    assert key.id in keys
    assert key.secret not in keys
    assert "No key" in (await web.get("/console/keys", params={"tenant": "nobody"})).text


async def test_usage_is_shown_and_downloaded(
    http: httpx.AsyncClient, store: JobStore, puppet: Puppet
) -> None:
    made = await http.post("/v1/jobs", json={"input": BODY})
    assert made.status_code == 202
    await puppet.succeed(await puppet.take(), usage=Usage(30, 12, 42))
    page = (await http.get("/console/usage", params={"days": "7", "group": "tenant"})).text
    assert "By tenant" in page
    drawn = json.loads(page.partition('data-usage="')[2].partition('"')[0].replace("&#34;", '"'))
    assert drawn["series"] == [{"name": "default", "values": [42]}]
    assert (await http.get("/console/usage", params={"days": "7000", "group": "x"})).status_code == 200
    got = await http.get("/console/usage.csv", params={"group": "model"})
    assert got.headers["content-type"] == "text/csv; charset=utf-8"
    assert "by-model.csv" in got.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(got.text))
    assert (row["model"], row["input_tokens"], row["output_tokens"]) == ("puppet", "30", "12")


async def test_the_csv_is_for_those_who_are_signed_in(web: httpx.AsyncClient, store: JobStore) -> None:
    assert (await web.get("/console/usage.csv")).status_code == 401
    await sign_in(web, store, "watcher", Scope.METRICS)
    assert (await web.get("/console/usage.csv")).status_code == 403
