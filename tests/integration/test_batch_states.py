"""States that pass quickly, ends that are repeated, and what is left when a batch's time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from redis import Redis

from broker.db.keys import Keys
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.batching import create, ended, jsonl, lines, row, upload
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_batches import golden, reaches, stable
from tests.processes import CoordinatorProcess
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio


def sdk(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_in_progress(client: openai.AsyncOpenAI, puppet: object) -> None:
    created = await create(client, [row(n, model="puppet") for n in range(30)])
    batch = await reaches(client, created.id, "in_progress")
    assert stable(batch) == golden(
        created,
        status="in_progress",
        model="puppet",
        in_progress_at=batch.in_progress_at,
        request_counts={"total": 30, "completed": 0, "failed": 0},
    )
    assert batch.in_progress_at >= created.created_at


async def test_finalizing(
    broker_settings: BrokerSettings, work: Callable, files_url: str, tmp_path: Path
) -> None:
    """A coordinator stops when the files are there and the batch does not say so."""
    await work()
    given: dict[str, Any] = {"files_url": files_url, "batch_lease_s": 60.0}
    first = CoordinatorProcess(
        broker_settings, tmp_path / "coordinator.log", failpoints="bulk.after_files=stop", **given
    )
    try:
        with ApiServer(broker_settings, files_url=files_url) as api:
            async with sdk(api.url) as client:
                created = await create(client, [row(n, max_tokens=-1 if n % 2 else 2) for n in range(10)])
                batch = await reaches(client, created.id, "finalizing")
                await eventually(lambda: len(list((Path(files_url) / "files").iterdir())) == 3)
                assert stable(batch) == golden(
                    created,
                    status="finalizing",
                    model="simulated",
                    in_progress_at=batch.in_progress_at,
                    finalizing_at=batch.finalizing_at,
                    request_counts={"total": 10, "completed": 5, "failed": 5},
                    usage=batch.usage.to_dict(),
                )
                assert batch.usage.output_tokens
                with pytest.raises(openai.ConflictError) as late:
                    await client.batches.cancel(batch.id)
                assert late.value.code == "batch_finished"
    finally:
        first.close()


async def retried(api: ApiServer, batch: Any) -> dict[str, Any]:
    async with api.client() as http:
        answer = await http.post(f"/v1/batches/{batch.id}/retry")
    assert answer.status_code == 200, answer.text
    child: dict[str, Any] = answer.json()
    assert child["retry_of"] == batch.id
    return child


async def test_a_cancelled_batch_is_repeated_from_where_it_was(
    client: openai.AsyncOpenAI, api: ApiServer, work: Callable
) -> None:
    await work(concurrency=64, simulated_inter_token_s=0.05)  # slots for all: the long rows may come first
    rows = [row(n, max_tokens=1 if n < 10 else 2000) for n in range(30)]
    created = await create(client, rows)

    async def some() -> bool:
        return (await client.batches.retrieve(created.id)).request_counts.completed >= 1

    await eventually(some)
    await client.batches.cancel(created.id)
    batch = await ended(client, created.id)
    assert batch.status == "cancelled"
    done = {line["custom_id"] for line in await lines(client, batch.output_file_id)}
    assert done
    assert done <= {one["custom_id"] for one in rows[:10]}
    child = await retried(api, batch)
    assert await lines(client, child["input_file_id"]) == [
        one for one in rows if one["custom_id"] not in done
    ]
    await client.batches.cancel(child["id"])
    await ended(client, child["id"])


async def test_an_expired_batch_is_repeated_with_its_window(
    client: openai.AsyncOpenAI, api: ApiServer, puppet: object
) -> None:
    """The window leaves time to read the batch on a busy machine. A batch that was never read has no rows to retry."""
    rows = [row(n, model="puppet") for n in range(12)]
    batch = await ended(client, (await create(client, rows, completion_window="3s")).id)
    assert (batch.status, batch.request_counts.failed) == ("expired", 12)
    child = await retried(api, batch)
    assert child["completion_window"] == "3s"
    assert await lines(client, child["input_file_id"]) == rows
    again = await ended(client, child["id"])
    assert again.status == "expired"
    assert (await retried(api, again))["id"] not in {batch.id, again.id}


async def test_a_batch_may_have_so_many_rows(
    broker_settings: BrokerSettings, files_url: str, puppet: object
) -> None:
    given = {"files_url": files_url}
    with (
        CoordinatorThread(broker_settings, batch_max_rows=3, **given),
        ApiServer(broker_settings, **given) as api,
    ):
        async with sdk(api.url) as client:
            few = await create(client, [row(n, model="puppet") for n in range(3)])
            await reaches(client, few.id, "in_progress")
            many = await ended(client, (await create(client, [row(n, model="puppet") for n in range(4)])).id)
            assert many.status == "failed"
            (error,) = many.errors.data
            assert (error.code, error.line) == ("invalid_request", None)
            assert "batch_max_rows" in error.message


async def test_a_key_finds_its_batch_after_the_input_is_gone(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    file = await upload(client, jsonl([row(1)]))
    given: dict[str, Any] = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "1h",
    }
    key = {"Idempotency-Key": "k"}
    batch = await ended(client, (await client.batches.create(**given, extra_headers=key)).id)
    await client.files.delete(file)
    assert (await client.batches.create(**given, extra_headers=key)).id == batch.id
    with pytest.raises(openai.ConflictError):
        await client.batches.create(**given | {"completion_window": "2h"}, extra_headers=key)
    others: list[dict[str, Any]] = [{}, {"extra_headers": {"Idempotency-Key": "other"}}]
    for other in others:
        with pytest.raises(openai.BadRequestError) as gone:
            await client.batches.create(**given, **other)
        assert gone.value.param == "input_file_id"
    assert len((await client.batches.list()).data) == 1


async def test_a_batch_whose_time_is_over_leaves_nothing(
    client: openai.AsyncOpenAI, work: Callable, broker_settings: BrokerSettings
) -> None:
    await work()
    old, kept = [await ended(client, (await create(client, [row(n)])).id) for n in range(2)]
    keys = Keys(broker_settings.namespace)
    with Redis.from_url(broker_settings.redis_url, decode_responses=True) as redis:
        redis.zadd(keys("batches_retire"), {old.id: 1})  # a month later

        async def gone() -> bool:
            return [batch.id async for batch in client.batches.list()] == [kept.id]

        await eventually(gone)
        await eventually(lambda: not [key for key in redis.scan_iter("*") if old.id in key])
        assert redis.zscore(keys("batches_retire"), old.id) is None
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve(old.id)
    assert (await client.batches.retrieve(kept.id)).status == "completed"
    assert await lines(client, old.output_file_id)
    await asyncio.gather(*(client.files.delete(ident) for ident in (old.input_file_id, old.output_file_id)))
