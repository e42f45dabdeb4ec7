"""Usage and the audit stream as the api, the SDK and the commands show them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.access import AccessStore
from broker.settings import BrokerSettings
from jobs.access import TENANT_SCOPES, ApiKey, Scope
from jobs.model import JobSpec, Usage
from jobs.states import JobState
from penstock import BadRequestError, Penstock
from tests.apiserver import ApiServer
from tests.console import PEPPER, sign_in
from tests.processes import ROOT
from tests.puppet import MODEL, Puppet
from tests.support import new_id
from tests.terminal import Terminal

pytestmark = pytest.mark.asyncio

PRICES = {MODEL: {"prompt": 2.0, "cached": 1.0, "completion": 4.0, "gpu_hour": 3.6}}


@pytest.fixture
def priced(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, prices=PRICES) as server:
        yield server


@pytest_asyncio.fixture
async def http(priced: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with priced.client() as client:
        yield client


async def ran(puppet: Puppet, tenant: str, key: str | None, times: int) -> None:
    for _ in range(times):
        job = JobSpec(new_id(), "/v1/completions", MODEL, b"{}", tenant=tenant, key=key)
        await puppet.store.accept(job)
        claim = await puppet.take()
        used = Usage(1000, 500, 1500, cached_tokens=400)
        await puppet.store.finish(claim, puppet.name, JobState.SUCCEEDED, usage=used, device_us=1_000_000)


async def command(api: ApiServer, *words: str) -> str:
    def run() -> str:
        env = os.environ | {"PENSTOCK_URL": api.url}
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *words],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return await asyncio.to_thread(run)


def results(page: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for bucket in page["data"] for result in bucket["results"]]


async def test_usage_is_grouped_priced_and_in_buckets_of_days_and_months(
    priced: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    await ran(puppet, "alice", "k1", 2)
    await ran(puppet, "alice", "k2", 1)
    await ran(puppet, "bob", None, 1)
    one: dict[str, Any] = {
        "requests": 1,
        "failures": 0,
        "batch_rows": 0,
        "input_tokens": 1000,
        "input_cached_tokens": 400,
    }
    one |= {"output_tokens": 500, "gpu_seconds": 1.0, "cost": (600 * 2 + 400 * 1 + 500 * 4) / 1e6 + 0.001}
    head = {"object": "usage.result", "tenant": None, "key": None, "key_name": None, "model": None}

    def times(count: int, **place: str) -> dict[str, Any]:
        return head | {name: pytest.approx(value * count) for name, value in one.items()} | place

    page = (await http.get("/v1/usage")).json()
    assert (page["object"], page["has_more"], page["next_page"]) == ("page", False, None)
    assert results(page) == [times(4, model=MODEL)]
    opens = datetime.fromtimestamp(page["data"][0]["start_time"], UTC)
    assert opens == opens.replace(hour=0, minute=0, second=0)
    assert page["data"][0]["end_time"] - page["data"][0]["start_time"] == 86_400
    page = (await http.get("/v1/usage", params={"group_by": "tenant,key", "bucket": "month"})).json()
    assert results(page) == [
        times(2, tenant="alice", key="k1"),
        times(1, tenant="alice", key="k2"),
        times(1, tenant="bob", key="-"),
    ]
    assert datetime.fromtimestamp(page["data"][0]["start_time"], UTC).day == 1
    assert datetime.fromtimestamp(page["data"][0]["end_time"], UTC).day == 1
    page = (await http.get("/v1/usage", params={"group_by": "", "tenant": "bob"})).json()
    assert results(page) == [times(1)]


async def test_a_wrong_question_is_answered_400(http: httpx.AsyncClient) -> None:
    for params in ({"group_by": "color"}, {"start": 2e9, "end": 1e9}, {"start": 0}):
        got = await http.get("/v1/usage", params=params)
        assert got.status_code == 400, params
        assert got.json()["error"]["param"] in params


async def test_a_long_answer_has_pages_that_the_sdk_follows(
    priced: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    today = datetime.fromtimestamp(await puppet.store.now_ms() / 1000, UTC).date()
    for age in range(3):
        day = puppet.store.keys("usage", f"{today - timedelta(days=age):%Y%m%d}")
        fields: dict[Any, Any] = {f"t{n} k m": "1 0 2 0 3 0 0" for n in range(6_000)}
        await puppet.store.client.hset(day, mapping=fields)
        await puppet.store.client.pexpire(day, 3_600_000)
    page = (await http.get("/v1/usage", params={"group_by": "tenant"})).json()
    assert (len(page["data"]), page["has_more"]) == (2, True)

    def ask() -> None:
        with Penstock(priced.url) as client:
            found = client.usage.get(group_by=["tenant"])
            assert [len(bucket.results) for bucket in found] == [6_000] * 3
            assert sum(result.output_tokens for bucket in found for result in bucket.results) == 54_000
            with pytest.raises(BadRequestError):
                client.usage.get(group_by=["color"])

    await asyncio.to_thread(ask)


async def test_the_command_prints_usage_as_a_table_csv_and_json_lines(
    priced: ApiServer, puppet: Puppet
) -> None:
    await ran(puppet, "alice", "k1", 2)
    await ran(puppet, "bob", "k2", 1)
    told = await command(priced, "usage", "--by", "tenant,model", "--csv")
    rows = list(csv.DictReader(io.StringIO(told)))
    assert [(row["tenant"], row["model"], row["requests"], row["input_tokens"]) for row in rows] == [
        ("alice", MODEL, "2", "2000"),
        ("bob", MODEL, "1", "1000"),
    ]
    (line,) = map(
        json.loads, (await command(priced, "usage", "--by", "", "--bucket", "day", "--json")).splitlines()
    )
    assert (line["requests"], line["output_tokens"], line["gpu_seconds"]) == (3, 1500, 3.0)
    text = await command(priced, "usage", "--by", "tenant", "--text")
    assert "alice" in text
    assert "2,000" in text


async def test_usage_has_the_names_of_keys_for_administrators(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    access, keys = AccessStore(puppet.store), {name: ApiKey.new() for name in ("ann", "ops")}
    for name, key in keys.items():
        scopes = {Scope.ADMIN} if name == "ops" else TENANT_SCOPES
        await access.create(key, PEPPER.encode(), tenant=name, scopes=frozenset(scopes), name=name)
    ann = keys["ann"].id
    await ran(puppet, "ann", ann, 2)
    await ran(puppet, "bob", None, 1)
    with ApiServer(broker_settings, require_keys=True, key_pepper=PEPPER) as server:
        async with server.client(headers={"authorization": f"Bearer {keys['ann']}"}) as http:
            (own,) = results((await http.get("/v1/usage", params={"group_by": "key"})).json())
            assert (own["key"], own["key_name"]) == (ann, None)  # it may not list keys
        async with server.client(headers={"authorization": f"Bearer {keys['ops']}"}) as http:
            everybody = results((await http.get("/v1/usage", params={"group_by": "key"})).json())
            assert [(one["key"], one["key_name"]) for one in everybody] == [("-", None), (ann, "ann")]
            await sign_in(http, str(keys["ops"]))
            assert f"ann ({ann})" in (await http.get("/console/usage?group=key")).text
            rows = list(csv.DictReader(io.StringIO((await http.get("/console/usage.csv?group=key")).text)))
            assert [(row["key"], row["key_name"]) for row in rows] == [("'-", ""), (ann, "ann")]
        words = ("--url", server.url, "--api-key", str(keys["ops"]), "usage", "--by", "key")
        lines = (await command(server, *words, "--json")).splitlines()
        assert [(json.loads(line)["key"], json.loads(line)["key_name"]) for line in lines] == [
            ("-", None),
            (ann, "ann"),
        ]
        assert "key name" in (text := await command(server, *words, "--text"))
        assert "ann" in text


async def test_acts_over_http_are_listed_by_route_sdk_and_command(
    priced: ApiServer, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    theirs = JobSpec(new_id(), "/v1/completions", MODEL, b"{}", tenant="alice")
    await puppet.store.accept(theirs)
    for verb in ("pause", "pause", "resume"):
        assert (await http.post(f"/v1/queues/default/{verb}")).status_code == 200
    await http.patch(f"/v1/jobs/{theirs.id}", json={"priority": "low"})
    await http.delete("/v1/queues/default/low")
    await http.post(f"/v1/jobs/{theirs.id}/retry")
    await http.post(f"/v1/workers/{puppet.name}/drain", json={"timeout_s": 5})
    whats = ["pool.pause", "pool.resume", "job.move", "lane.purge", "job.retry", "worker.drain"]
    page = (await http.get("/v1/admin/audit")).json()
    assert [act["what"] for act in page["data"]] == whats[::-1]
    assert not page["has_more"]
    moved = page["data"][3]
    assert moved["by"] == {"key": None, "key_name": None, "tenant": "default", "address": "127.0.0.1"}
    assert (moved["kind"], moved["on"], moved["details"]["tenant"]) == ("job", theirs.id, "alice")
    page = (await http.get("/v1/admin/audit", params={"limit": 2, "order": "asc"})).json()
    assert [act["what"] for act in page["data"]] == whats[:2]
    page = (await http.get("/v1/admin/audit", params={"after": page["next_cursor"], "order": "asc"})).json()
    assert [act["what"] for act in page["data"]] == whats[2:]
    assert (await http.get("/v1/admin/audit", params={"after": "MTIz"})).status_code == 400

    def ask() -> None:
        with Penstock(priced.url) as client:
            found = client.audit.list(tenant="alice", page_size=1)
            assert [act.what for act in found] == ["job.retry", "job.move"]

    await asyncio.to_thread(ask)
    lines = (await command(priced, "audit", "--what", "pool", "--since", "1h", "--json")).splitlines()
    assert [json.loads(line)["what"] for line in lines] == ["pool.resume", "pool.pause"]
    assert "worker.drain" in await command(priced, "audit", "--text")


async def test_a_tenant_sees_its_own_and_an_administrators_acts_bear_the_key(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    pepper = "a pepper of the tests"
    access = AccessStore(puppet.store)
    keys = {name: ApiKey.new() for name in ("alice", "bob", "ops")}
    for name, key in keys.items():
        scopes = {Scope.ADMIN} if name == "ops" else TENANT_SCOPES
        await access.create(key, pepper.encode(), tenant=name, scopes=frozenset(scopes))
    with ApiServer(broker_settings, require_keys=True, key_pepper=pepper) as server:
        async with server.client() as http:

            async def ask(name: str, method: str, path: str, **sent: Any) -> httpx.Response:
                return await http.request(
                    method, path, headers={"authorization": f"Bearer {keys[name]}"}, **sent
                )

            job = {"endpoint": "/v1/completions", "input": {"model": MODEL, "prompt": "hi"}}
            for name in ("alice", "alice", "bob"):
                assert (await ask(name, "POST", "/v1/jobs", json=job)).status_code == 202
                await puppet.succeed(await puppet.take())
            params = {"group_by": "tenant,key", "tenant": "alice"}
            for name, count in (("alice", 2), ("bob", 1)):  # whatever they ask for
                (result,) = results((await ask(name, "GET", "/v1/usage", params=params)).json())
                assert (result["tenant"], result["key"]) == (name, keys[name].id)
                assert (result["requests"], result["output_tokens"]) == (count, 2 * count)
            everything = {"group_by": "tenant"}
            found = results((await ask("ops", "GET", "/v1/usage", params=everything)).json())
            assert [(one["tenant"], one["requests"]) for one in found] == [("alice", 2), ("bob", 1)]

            waiting = (await ask("bob", "POST", "/v1/jobs", json=job)).json()["id"]
            assert (await ask("alice", "POST", f"/v1/jobs/{waiting}/cancel")).status_code == 404
            assert (await ask("ops", "POST", f"/v1/jobs/{waiting}/cancel")).status_code == 200
            for name in ("alice", "bob"):
                assert (await ask(name, "GET", "/v1/admin/audit")).status_code == 403
            (act,) = (await ask("ops", "GET", "/v1/admin/audit", params={"what": "job"})).json()["data"]
            assert (act["what"], act["on"], act["details"]["tenant"]) == ("job.cancel", waiting, "bob")
            assert act["by"] == {
                "key": keys["ops"].id,
                "key_name": None,
                "tenant": "ops",
                "address": "127.0.0.1",
            }


async def test_an_act_names_its_key_and_fits_a_terminal(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    key, access = ApiKey.new(), AccessStore(puppet.store)
    await access.create(key, PEPPER.encode(), tenant="ops", scopes={Scope.ADMIN}, name="ann")
    theirs = JobSpec(new_id(), "/v1/completions", MODEL, b"{}", tenant="alice")
    await puppet.store.accept(theirs)
    with ApiServer(broker_settings, require_keys=True, key_pepper=PEPPER) as server:
        async with server.client(headers={"authorization": f"Bearer {key}"}) as http:
            await http.post(f"/v1/jobs/{theirs.id}/cancel")
            (act,) = (await http.get("/v1/admin/audit")).json()["data"]
            assert (act["by"]["key"], act["by"]["key_name"]) == (key.id, "ann")
            await sign_in(http, str(key))
            assert f'ann <span class="quiet mono">{key.id}' in (await http.get("/console/audit")).text
        words = ("--url", server.url, "--api-key", str(key), "audit", "--text")
        for columns, lines in ((80, 2), (200, 2)):  # two lines, or a line under the names of its columns
            with Terminal(*words, env={}, size=(30, columns)) as screen:
                assert await asyncio.to_thread(screen.end) == 0
            shown = screen.shown.strip().splitlines()
            assert len(shown) == lines
            assert max(map(len, shown)) <= columns
            assert theirs.id in screen.shown
            assert f"ops/{key.id} (ann)" in screen.shown
            assert "127.0.0.1" in screen.shown
