"""Health, metrics, the generated schema, and life without Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tenants import TenantStore
from jobs.model import SCHEMA_VERSION
from jobs.stream_chunks import Head, Text
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.processes import ApiProcess
from tests.puppet import MODEL, Puppet
from tests.support import eventually, free_port

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def api(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    """An api of the test's own: its metrics begin at 0."""
    with ApiServer(broker_settings, max_body_bytes=4096, sse_ping_s=0.2) as server:
        yield server


async def test_ready_names_what_is_missing(http: httpx.AsyncClient, store: JobStore) -> None:
    got = await http.get("/health/ready")
    assert (got.status_code, got.json()["missing"]) == (503, ["worker"])
    assert (await http.get("/health/live")).status_code == 200
    await Puppet(store).live()

    async def ready() -> bool:
        return (await http.get("/health/ready")).status_code == 200

    await eventually(ready)
    assert (await http.get("/health/ready")).json()["checks"]["redis"] == "ok"


async def test_metrics_count_by_route(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    await puppet.succeed(await puppet.take())
    assert (await asked).status_code == 200
    job = (await http.post("/v1/jobs", json={"input": BODY})).json()
    await http.get(f"/v1/jobs/{job['id']}")
    await http.get("/v1/jobs/job_none")
    await http.get("/none")

    async def text() -> str:
        return (await http.get("/metrics")).text

    found = await text()
    assert 'api_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0' in found
    assert 'api_requests_total{endpoint="/v1/jobs/{job_id}",status="404"} 1.0' in found
    assert 'api_requests_total{endpoint="unmatched",status="404"} 1.0' in found
    assert 'api_request_latency_seconds_count{endpoint="/v1/jobs"} 1.0' in found
    assert 'penstock_jobs_accepted_total{lane="realtime"} 1.0' in found
    assert "api_active_requests 1.0" in found
    assert job["id"] not in found

    async def depth() -> bool:
        return 'api_queue_depth{lane="normal",pool="default"} 1.0' in await text()

    await eventually(depth)


NO_BODY = (
    "/cancel",
    "/{job_id}/retry",
    "/{batch_id}/retry",
    "/{action}",
    "/pause",
    "/resume",
    "/compact",
    "/abort",
    "/resend",
    "/test",
)


async def test_the_schema_describes_every_route(http: httpx.AsyncClient) -> None:
    schema = (await http.get("/openapi.json")).json()
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation["tags"], path
            assert operation["summary"], path
            if method == "post" and not path.endswith(NO_BODY):
                (content,) = operation["requestBody"]["content"].items()
                form = path == "/v1/files" or path.startswith("/v1/audio/")
                assert content[0] == ("multipart/form-data" if form else "application/json")
                assert content[1]["schema"]
    refs = {line.split('"')[3] for line in json.dumps(schema, indent=0).splitlines() if '"$ref"' in line}
    for ref in refs:
        at = schema
        for part in ref.removeprefix("#/").split("/"):
            assert part in at, ref
            at = at[part]
    assert (await http.get("/docs")).status_code == 200


async def test_redis_goes_and_comes_back(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, ApiServer(BrokerSettings(redis_url=server.url)) as api:
        store = JobStore(connect(server.url), api.settings)
        puppet = Puppet(store)
        await puppet.live()
        async with api.client() as http:
            asked = asyncio.create_task(http.post(CHAT, json=BODY))
            claim = await puppet.take()
            server.stop()
            for method, path in (
                ("POST", CHAT),
                ("POST", "/v1/jobs"),
                ("GET", "/v1/jobs"),
                ("GET", "/v1/models"),
            ):
                body = BODY if path == CHAT else {"input": BODY}
                got = await http.request(method, path, json=body)
                assert (got.status_code, got.json()["error"]["code"]) == (503, "redis_unavailable"), path
                assert got.headers["retry-after"]
            assert (await http.get("/health/ready")).json()["missing"] == ["redis", "schema", "worker"]
            assert (await http.get("/health/live")).status_code == 200

            server.start()
            assert await puppet.beat() == {}
            await puppet.succeed(claim, b'{"still": "here"}')
            assert (await asked).json() == {"still": "here"}

            async def ready() -> bool:
                return (await http.get("/health/ready")).status_code == 200

            await eventually(ready)
            again = asyncio.create_task(http.post(CHAT, json=BODY))
            await puppet.succeed(await puppet.take())
            assert (await again).status_code == 200
        await store.aclose()


async def test_starting_before_redis(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.prepare()
    settings = BrokerSettings(redis_url=server.url)
    server.release()
    with ApiServer(settings) as api:
        async with api.client() as http:
            got = await http.post("/v1/jobs", json={"input": BODY})
            assert (got.status_code, got.json()["error"]["code"]) == (503, "redis_unavailable")
            with server:
                store = JobStore(connect(server.url), settings)
                puppet = Puppet(store)
                await puppet.live()

                async def ready() -> bool:
                    return (await http.get("/health/ready")).status_code == 200

                await eventually(ready)
                asked = asyncio.create_task(http.post(CHAT, json=BODY))
                await puppet.succeed(await puppet.take(), b'{"a":1}')
                assert (await asked).json() == {"a": 1}
                await store.aclose()


async def test_a_redis_that_comes_back_empty_gets_the_limits_again(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    limits = puppet.store.keys("limits")

    async def complete() -> dict[str, str]:
        found: Any = await puppet.store.client.hgetall(limits)
        return dict(found) if "by_tenant" in found else {}

    with ApiServer(broker_settings, max_active=3, tenants={"acme": {"weight": 2}}):
        told = await eventually(complete)
        assert told["max_active"] == "3"
        keys = puppet.store.keys

        async def user_key() -> Any:
            return await puppet.store.client.hget(keys("access"), "user_key")

        key = await eventually(user_key)
        await puppet.store.client.delete(limits, keys("access"), keys("tenants"), keys("tenant", "acme"))
        assert await eventually(complete) == told
        assert (await TenantStore(puppet.store).get("acme")).weight == 2
        assert await eventually(user_key) == key


async def test_an_api_does_not_start_on_data_of_a_newer_version(
    broker_settings: BrokerSettings, puppet: Puppet, tmp_path: Path
) -> None:
    await puppet.store.client.set(puppet.store.keys("schema"), 99)
    api = ApiProcess(broker_settings, tmp_path / "api.log", free_port())
    try:
        assert await asyncio.to_thread(api.process.wait, 20) == 1
        assert "the data in Redis has version 99" in api.log.read_text()
    finally:
        api.close()


async def test_no_job_is_accepted_before_the_data_is_this_version_s(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.prepare()
    settings = BrokerSettings(redis_url=server.url)
    server.release()
    with ApiServer(settings) as api:
        async with api.client() as http:
            with server:
                store = JobStore(connect(server.url), settings)
                await store.client.set(store.keys("schema"), 99)
                await Puppet(store).live()

                async def missing() -> list[str]:
                    found: list[str] = (await http.get("/health/ready")).json().get("missing", [])
                    return found

                await eventually(lambda: missing_is(missing, ["schema", "tasks"]))
                got = await http.post("/v1/jobs", json={"input": BODY})
                assert (got.status_code, got.json()["error"]["code"]) == (503, "redis_unavailable")
                await store.client.set(store.keys("schema"), SCHEMA_VERSION)
                await eventually(lambda: missing_is(missing, []))
                assert (await http.post("/v1/jobs", json={"input": BODY})).status_code == 202
                await store.aclose()


async def missing_is(missing: Callable[[], Awaitable[list[str]]], names: list[str]) -> bool:
    return await missing() == names


async def test_stopping_cuts_open_calls_and_cancels_their_jobs(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    with ApiServer(broker_settings, shutdown_grace_s=0) as api:
        async with api.client() as http:
            asked = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
            claim = await puppet.take()
            await puppet.say(claim, Head((), "", ""), Text("1"))
            api.stop()
            await asyncio.gather(asked, return_exceptions=True)
    assert await puppet.beat() == {claim.id: "cancelled"}
