"""The api's metrics: errors by code, what is in Redis, the workers' addresses; the same from two api processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.stream_chunks import Head, Text
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def api(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    """An api of the test's own: its metrics begin at 0."""
    with ApiServer(broker_settings, max_body_bytes=4096, sse_ping_s=0.2) as server:
        yield server


async def scrape(http: httpx.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = (await http.get("/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def value(http: httpx.AsyncClient, name: str, **labels: str) -> float:
    return (await scrape(http))[name, frozenset(labels.items())]


async def test_errors_are_counted_by_code_wherever_they_are_answered(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    await http.post(CHAT, json=BODY | {"model": "none"})
    asked = asyncio.create_task(http.post(CHAT, json=BODY))
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "boom"), 500)
    assert (await asked).status_code == 500
    streamed = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": True}))
    claim = await puppet.take()
    await puppet.say(claim, Head((), "", ""), Text("1"))
    await puppet.fail(claim, JobError(FailureCode.TIMEOUT, "too long"))
    assert b"too long" in (await streamed).content
    found = await scrape(http)

    def count(code: str) -> float:
        return found["api_errors_total", frozenset({("code", code)})]

    assert (count("model_not_found"), count("engine_error"), count("timeout")) == (1, 1, 1)
    assert count("queue_full") == 0
    first = found["api_time_to_first_token_seconds_count", frozenset({("endpoint", CHAT)})]
    assert first == 1


async def test_every_route_has_its_series_before_its_first_request(http: httpx.AsyncClient) -> None:
    found = await scrape(http)
    for endpoint in (CHAT, "/v1/jobs/{job_id}", "/v1/workers", "unmatched"):
        for status in ("200", "429", "503"):
            assert found["api_requests_total", frozenset({("endpoint", endpoint), ("status", status)})] == 0


async def test_what_is_in_redis_is_the_same_in_every_api_process(
    broker_settings: BrokerSettings, http: httpx.AsyncClient, puppet: Puppet
) -> None:
    for _ in range(3):
        assert (await http.post("/v1/jobs", json={"input": BODY})).status_code == 202
    with ApiServer(broker_settings) as second:
        async with second.client() as other:
            for client in (http, other):

                async def seen(client: httpx.AsyncClient = client) -> bool:
                    found = await scrape(client)
                    place = frozenset({("pool", "default"), ("lane", "normal")})
                    return (
                        found.get(("api_queue_depth", place)) == 3
                        and found["penstock_oldest_queued_age_seconds", place] > 0
                        and found["penstock_jobs_held", frozenset({("state", "queued")})] == 3
                        and 0
                        < found["penstock_redis_memory_used_bytes", frozenset()]
                        < found["penstock_redis_memory_system_bytes", frozenset()]
                    )

                await eventually(seen)
                alive = await value(client, "penstock_workers", pool="default", state="ready")
                assert alive == 1
                assert await value(client, "penstock_redis_up") == 1
                assert await value(client, "penstock_redis_aof_enabled") == 1
                assert await value(client, "penstock_redis_persistence_ok", kind="aof") == 1
            assert await value(http, "penstock_jobs_accepted_total", lane="normal") == 3
            assert await value(other, "penstock_jobs_accepted_total", lane="normal") == 0
            assert await value(http, "penstock_tenant_jobs_accepted_total", tenant="default") == 3


async def test_prometheus_is_told_where_the_workers_are(http: httpx.AsyncClient, store: JobStore) -> None:
    facts = {"pool": "big", "engine": "vllm", "host": "node7", "models": [MODEL]}
    await store.heartbeat(
        "w-1", first=True, info=facts | {"name": "gpu0@node7", "metrics_url": "http://node7:9101/metrics"}
    )
    await store.heartbeat("w-2", first=True, info=facts | {"name": "silent@node7"})
    labels = {
        "__scheme__": "http",
        "__metrics_path__": "/metrics",
        "pool": "big",
        "worker": "gpu0@node7",
        "engine": "vllm",
        "host": "node7",
    }
    got = await http.get("/v1/metrics/targets")
    assert got.headers["content-type"] == "application/json"
    assert got.json() == [{"targets": ["node7:9101"], "labels": labels}]
