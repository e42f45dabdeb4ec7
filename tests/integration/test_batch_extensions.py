"""Beyond OpenAI: results while a batch runs, live progress, pause and resume, retry of the failed rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

from api.batches.event_schema import BatchEvent
from broker.batch_steps import BatchSteps
from broker.batches import BatchStore
from broker.db.keys import Keys
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.batching import create, ended, lines, row
from tests.documented import assert_documented
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio


async def page(
    http: httpx.AsyncClient, batch_id: str, after: str | None, limit: int = 7
) -> tuple[list[str], str, bool]:
    """Read a page of results: the ids, the next cursor, whether there is more to come."""
    asked = {"limit": limit} | ({} if after is None else {"after": after})
    answer = await http.get(f"/v1/batches/{batch_id}/results", params=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    ids = [json.loads(line)["custom_id"] for line in answer.content.splitlines()]
    return ids, answer.headers["x-next-cursor"], answer.headers["x-incomplete"] == "true"


async def test_results_come_while_it_runs_each_once(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work(concurrency=8, simulated_inter_token_s=0.02)
    rows = [row(n, max_tokens=-1 if n % 9 == 0 else 2 + n % 40) for n in range(60)]
    batch = await create(client, rows)
    seen: list[str] = []
    early = False
    async with api.client() as http:
        cursor, more = None, True
        while more:
            ids, cursor, more = await page(http, batch.id, cursor)
            seen += ids
            early = early or (bool(ids) and (await client.batches.retrieve(batch.id)).status == "in_progress")
        assert early
        assert sorted(seen) == sorted(f"row-{n}" for n in range(60))
        assert await page(http, batch.id, cursor) == ([], cursor, False)
        assert (await page(http, batch.id, None, 1000))[0] == seen or len(seen) == 60
        wrong = await http.get(f"/v1/batches/{batch.id}/results?after=nonsense")
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


async def test_results_of_a_batch_that_ended_long_since(
    client: openai.AsyncOpenAI,
    api: ApiServer,
    work: Callable,
    broker_settings: BrokerSettings,
    files_url: str,
) -> None:
    await work()
    batch = await create(client, [row(n, max_tokens=-1 if n < 5 else 2) for n in range(20)])
    await ended(client, batch.id)
    async with api.client() as http:
        _, old, _ = await page(http, batch.id, None)
        keys = Keys(broker_settings.namespace)
        with Redis.from_url(broker_settings.redis_url) as redis:  # an hour later
            redis.zadd(keys("batches_parts"), {batch.id: 1})

        await eventually(lambda: not (Path(files_url) / "batches" / batch.id).exists())

        async def gone() -> bool:  # the files leave a moment before the record says so
            return (await http.get(f"/v1/batches/{batch.id}/results?after={old}")).status_code == 410

        await eventually(gone)
        answer = await http.get(f"/v1/batches/{batch.id}/results?after={old}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "cursor_expired")
        seen: list[str] = []
        cursor, more = None, True
        while more:
            ids, cursor, more = await page(http, batch.id, cursor, 6)
            seen += ids
        assert sorted(seen) == sorted(f"row-{n}" for n in range(20))


async def test_events_tell_progress_and_the_end(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work(concurrency=8, simulated_inter_token_s=0.05)
    batch = await create(client, [row(n, max_tokens=12) for n in range(40)])
    events: list[tuple[str, dict[str, Any]]] = []
    async with api.client() as http, http.stream("GET", f"/v1/batches/{batch.id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    names = [name for name, _ in events]
    assert names[-1] == "completed"
    assert set(names[:-1]) == {"progress"}
    fields = {
        "status",
        "request_counts",
        "rows_per_s",
        "tokens_per_s",
        "eta_s",
        "paused",
        "pause_reason",
        "usage",
    }
    assert all(fields <= data.keys() for _, data in events[:-1])
    done = [data["request_counts"]["completed"] for _, data in events[:-1]]
    assert done == sorted(done)
    assert any(data["rows_per_s"] for _, data in events[:-1])
    assert events[-1][1]["id"] == batch.id
    assert_documented(BatchEvent, *({"event": name, "id": "1", "data": data} for name, data in events))


async def read_events(
    http: httpx.AsyncClient, batch_id: str, after: str | None = None, most: int | None = None
) -> list[tuple[str, str, dict[str, Any]]]:
    """Follow a batch to its end, or for some events; return ids, names and data."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    headers = {} if after is None else {"last-event-id": after}
    async with http.stream("GET", f"/v1/batches/{batch_id}/events", headers=headers) as stream:
        fields: dict[str, str] = {}
        async for line in stream.aiter_lines():
            name, colon, value = line.partition(": ")
            if colon and name:
                fields[name] = value
            elif fields and not line:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
                fields = {}
                if len(found) == most:
                    break
    return found


async def test_a_follower_resumes_after_the_last_event(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work(concurrency=2, simulated_inter_token_s=0.02)
    async with api.client() as http:
        await http.post("/v1/queues/default/pause")
        batch = await create(client, [row(n, max_tokens=8) for n in range(12)])
        path = f"/v1/batches/{batch.id}/events"
        ((last, name, _),) = await read_events(http, batch.id, most=1)
        assert name == "progress"
        await http.post("/v1/queues/default/resume")
        events = await read_events(http, batch.id, last)
        ids = [int(ident) for ident, _, _ in events]
        assert ids == sorted(set(ids))
        assert ids[0] > int(last)
        assert {name for _, name, _ in events[:-1]} <= {"progress"}
        end = events[-1]
        assert (end[1], end[2]["status"]) == ("completed", "completed")
        assert await read_events(http, batch.id, last) == [end]  # what it missed is in one event
        assert await read_events(http, batch.id) == [end]
        assert (await http.get(path, headers={"last-event-id": end[0]})).status_code == 204
        wrong = await http.get(path, headers={"last-event-id": "1-2"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")


async def test_a_change_reaches_its_followers_at_once(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work(concurrency=1, simulated_inter_token_s=0.5)
    batch = await create(client, [row(n, max_tokens=100) for n in range(3)])
    async with api.client() as http:

        async def running() -> bool:
            return (await client.batches.retrieve(batch.id)).status == "in_progress"

        await eventually(running)
        ((last, _, told),) = await read_events(http, batch.id, most=1)
        assert told["paused"] is False
        followers = [asyncio.create_task(read_events(http, batch.id, last)) for _ in range(2)]
        await http.post(f"/v1/batches/{batch.id}/pause")
        await http.post(f"/v1/batches/{batch.id}/cancel")
        for events in await asyncio.gather(*followers):
            assert events[-1][1] == "cancelled"


async def test_a_silent_follower_gets_pings(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work(concurrency=1, simulated_inter_token_s=0.5)
    batch = await create(client, [row(n, max_tokens=100) for n in range(2)])
    text = ""
    async with api.client() as http, http.stream("GET", f"/v1/batches/{batch.id}/events") as stream:
        async for part in stream.aiter_text():
            text += part
            if text.count(": ping\n\n") >= 2:
                break
        else:
            pytest.fail(f"no pings came: {text}")
    await client.batches.cancel(batch.id)


async def test_pause_and_resume(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable, store: JobStore
) -> None:
    await work(concurrency=4, simulated_inter_token_s=0.01)
    batch = await create(client, [row(n, max_tokens=10 if n < 10 else 25) for n in range(60)])

    async def counted() -> int:
        return int((await client.batches.retrieve(batch.id)).request_counts.completed)

    async with api.client() as http:
        await eventually(counted)
        paused = (await http.post(f"/v1/batches/{batch.id}/pause")).json()
        assert (paused["paused"], paused["pause_reason"]) == (True, "paused_by_client")

        async def at_rest() -> bool:
            """No chunk is a live job any more."""
            opened, _ = await BatchSteps(store, 1, 1).open_chunks(batch.id)
            return all(not chunk.job for chunk in opened.values())

        await eventually(at_rest)
        before = await counted()
        assert before < 60
        resumed = (await http.post(f"/v1/batches/{batch.id}/resume")).json()
        assert (resumed["paused"], resumed["pause_reason"]) == (False, None)
        assert (await ended(client, batch.id)).request_counts.completed == 60
        assert (await http.get(f"/v1/batches/{batch.id}/verify")).json()["ok"]
        assert (await http.post(f"/v1/batches/{batch.id}/pause")).status_code == 409


async def test_retry_runs_the_failed_rows_only(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work()
    rows = [row(n, max_tokens=-1 if n in {3, 17} else 2) for n in range(25)]
    batch = await ended(client, (await create(client, rows, metadata={"a": "b"})).id)
    async with api.client() as http:
        child = (await http.post(f"/v1/batches/{batch.id}/retry")).json()
        assert (child["retry_of"], child["metadata"]) == (batch.id, {"a": "b"})
        again = (await http.post(f"/v1/batches/{batch.id}/retry")).json()
        assert again["id"] == child["id"]
        assert (await http.get(f"/v1/batches/{batch.id}")).json()["retried_as"] == child["id"]
        sent = await lines(client, child["input_file_id"])
        assert [line["custom_id"] for line in sent] == ["row-3", "row-17"]
        assert sent[0] == rows[3]
        assert (await ended(client, child["id"])).request_counts.to_dict() == {
            "total": 2,
            "completed": 0,
            "failed": 2,
        }
        good = await ended(client, (await create(client, [row(1)])).id)
        answer = await http.post(f"/v1/batches/{good.id}/retry")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_to_retry")


async def test_what_has_not_ended_is_neither_verified_nor_retried(
    client: openai.AsyncOpenAI, api: ApiServer, puppet: object
) -> None:
    batch = await create(client, [row(1, model="puppet")])
    async with api.client() as http:
        for method, path in (("GET", "verify"), ("POST", "retry")):
            answer = await http.request(method, f"/v1/batches/{batch.id}/{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "batch_not_finished")
        for path in ("verify", "results", "events"):
            assert (await http.get(f"/v1/batches/batch_nope/{path}")).status_code == 404


async def test_a_window_that_closes_promotes(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore
) -> None:
    await work(concurrency=2, simulated_inter_token_s=0.02)
    batch = await create(client, [row(n, max_tokens=20) for n in range(200)], completion_window="12s")
    lanes: list[str] = []

    async def promoted() -> bool:
        lanes.append((await BatchStore(store).get(batch.id)).lane.value)
        return lanes[-1] == "normal"

    await eventually(promoted)
    assert [lane for n, lane in enumerate(lanes) if not n or lanes[n - 1] != lane] == [
        "bulk",
        "low",
        "normal",
    ]
    assert (await client.batches.retrieve(batch.id)).to_dict()["priority"] == "bulk"
    await client.batches.cancel(batch.id)
    await ended(client, batch.id)
