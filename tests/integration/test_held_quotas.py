"""Quotas of what a tenant has in all, and of batches: stored bytes, open batches, rows that count as they run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.tenants import DAY_MS, TenantStore
from tests.apiserver import ApiServer
from tests.batching import create, ended, row, upload
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_batches import reaches
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio


@pytest.fixture
def tenants(store: JobStore) -> TenantStore:
    return TenantStore(store)


async def given(api: ApiServer, **fields: Any) -> None:
    """Set the tenant of all callers here."""
    async with api.client() as http:
        assert (await http.patch("/v1/admin/tenants/default", json=fields)).status_code == 200


async def retrieved(client: openai.AsyncOpenAI, batch: str) -> Any:
    return await client.batches.retrieve(batch)


async def paused(client: openai.AsyncOpenAI, batch: str) -> Any:
    """Return a batch once it says why it waits."""

    async def waits() -> Any:
        found = await retrieved(client, batch)
        assert found.status in {"validating", "in_progress"}
        return found if found.pause_reason else None

    return await eventually(waits)


async def test_a_batch_over_its_day_waits_and_goes_on_when_the_quota_is_raised(
    api: ApiServer, client: openai.AsyncOpenAI, work: Callable, tenants: TenantStore
) -> None:
    await work(concurrency=2)
    await given(api, tokens_per_day=60)
    batch = await create(client, [row(n, max_tokens=4) for n in range(60)])
    held = await paused(client, batch.id)
    assert (held.pause_reason, held.paused) == ("quota", True)

    async def stands() -> Any:
        found = await retrieved(client, batch.id)
        tokens = (await tenants.used("default")).tokens_today
        return found if found.usage.total_tokens == tokens else None

    found = await eventually(stands)
    assert 0 < found.request_counts.completed < 60
    await given(api, tokens_per_day=1_000_000)
    done = await ended(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 60)
    assert done.usage.total_tokens == (await tenants.used("default")).tokens_today
    assert (done.pause_reason, (await tenants.used("default")).open_batches) == (None, 0)


async def test_it_goes_on_when_the_day_is_over(
    api: ApiServer, client: openai.AsyncOpenAI, work: Callable, tenants: TenantStore, store: JobStore
) -> None:
    await work()
    await given(api, tokens_per_day=100_000)
    quota, today = store.keys("quota", "default"), await store.now_ms() // DAY_MS
    await store.client.hset(quota, mapping={"day": today, "used": 100_000})
    batch = await create(client, [row(n, max_tokens=2) for n in range(5)])
    held = await paused(client, batch.id)
    assert (held.pause_reason, held.request_counts.completed) == ("quota", 0)
    await store.client.hset(quota, "day", today - 1)
    assert (await ended(client, batch.id)).request_counts.completed == 5


async def test_a_batch_whose_last_row_uses_up_the_day_ends(
    api: ApiServer, client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    await given(api, tokens_per_day=1)
    batch = await create(client, [row(n, max_tokens=2) for n in range(5)])
    done = await ended(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 5)


async def test_a_suspended_tenant_s_batches_wait(
    api: ApiServer, client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    await given(api, tokens_per_day=1_000_000)
    async with api.client() as http:
        await http.post("/v1/queues/default/pause")  # so that no row runs before
        batch = await create(client, [row(n, max_tokens=2) for n in range(5)])
        await reaches(client, batch.id, "in_progress")
        await given(api, state="suspended")
        await http.post("/v1/queues/default/resume")
    held = await paused(client, batch.id)
    assert (held.pause_reason, held.request_counts.completed) == ("tenant_suspended", 0)
    await given(api, state="active")
    assert (await ended(client, batch.id)).request_counts.completed == 5


async def test_rows_leave_a_quarter_of_the_minute_to_calls(
    api: ApiServer, client: openai.AsyncOpenAI, work: Callable, tenants: TenantStore
) -> None:
    await work()
    await given(api, tokens_per_minute=400)
    batch = await create(client, [row(n, max_tokens=30) for n in range(60)])
    done = await ended(client, batch.id)
    assert done.usage.total_tokens > 1000
    async with api.client() as http:
        call = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
        answer = await http.post("/v1/chat/completions", json=call)
        assert answer.status_code == 200
        refused = await http.post("/v1/jobs", json={"input": call | {"max_tokens": 380}})
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_open_batches_are_bounded(
    api: ApiServer, client: openai.AsyncOpenAI, puppet: object, tenants: TenantStore
) -> None:
    await given(api, batches_open=1)
    first = await create(client, [row(1, model="puppet")])
    with pytest.raises(openai.RateLimitError) as refused:
        await create(client, [row(1, model="puppet")])
    assert (refused.value.code, refused.value.response.headers["x-should-retry"]) == (
        "insufficient_quota",
        "false",
    )
    await reaches(client, first.id, "in_progress")
    await client.batches.cancel(first.id)
    await ended(client, first.id)
    await create(client, [row(1, model="puppet")])
    assert (await tenants.used("default")).open_batches == 1


async def test_stored_bytes_are_bounded_and_freed(
    api: ApiServer, client: openai.AsyncOpenAI, tenants: TenantStore, files_url: str
) -> None:
    await given(api, storage_bytes=1000)
    first = await upload(client, b"x" * 600)
    with pytest.raises(openai.RateLimitError) as refused:
        await upload(client, b"x" * 401)
    assert refused.value.code == "insufficient_quota"
    second = await upload(client, b"x" * 400)
    assert (await tenants.used("default")).stored_bytes == 1000
    for file in (first, second):
        await client.files.delete(file)
    assert (await tenants.used("default")).stored_bytes == 0


async def test_what_does_not_fit_is_refused_before_its_bytes_are_taken_in(
    api: ApiServer, client: openai.AsyncOpenAI
) -> None:
    await given(api, storage_bytes=1000)
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", api.settings.port)
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.readuntil(b"insufficient_quota"), 10)
    assert answer.startswith(b"HTTP/1.1 429")
    writer.close()


async def test_the_same_upload_twice_is_stored_once_also_when_the_room_is_full(
    api: ApiServer, client: openai.AsyncOpenAI, tenants: TenantStore, broker_settings: BrokerSettings
) -> None:
    await given(api, storage_bytes=600)
    async with api.client() as http:
        ids = set()
        for _ in range(2):
            form: dict[str, Any] = {"files": {"file": ("x", b"x" * 600)}, "data": {"purpose": "batch"}}
            made = await http.post("/v1/files", **form, headers={"idempotency-key": "k"})
            ids.add(made.json()["id"])
    assert len(ids) == 1
    assert (await tenants.used("default")).stored_bytes == 600
