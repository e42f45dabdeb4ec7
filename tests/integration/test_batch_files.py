"""An ended batch whose files were deleted, have expired or were torn: what its calls say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from redis import Redis

from api.batches.cursor import Position
from broker.db.keys import Keys
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.batching import create, ended, row
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def http(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as http:
        yield http


@pytest_asyncio.fixture
async def batch(client: openai.AsyncOpenAI, work: Callable) -> Any:
    """A batch of 12 rows, 4 of which failed."""
    await work()
    return await ended(
        client, (await create(client, [row(n, max_tokens=-n % 3 or -1) for n in range(12)])).id
    )


@pytest.fixture
def parts_go(broker_settings: BrokerSettings, files_url: str) -> Callable:
    async def go(batch_id: str) -> None:
        """Have an hour pass."""
        parts = Keys(broker_settings.namespace)("batches_parts")
        with Redis.from_url(broker_settings.redis_url) as redis:
            redis.zadd(parts, {batch_id: 1})
            await eventually(lambda: redis.zscore(parts, batch_id) is None)
        assert not (Path(files_url) / "batches" / batch_id).exists()

    return go


def gone(answer: httpx.Response, file_id: str) -> bool:
    error = answer.json()["error"]
    told = (answer.status_code, error["code"], "retry-after" in answer.headers)
    return told == (410, "file_gone", False) and file_id in error["message"]


async def test_deleted_files_are_told(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, batch: Any, parts_go: Callable
) -> None:
    url = f"/v1/batches/{batch.id}"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (8, 4)
    await parts_go(batch.id)
    first = await http.get(f"{url}/results?limit=3")
    assert (len(first.content.splitlines()), first.headers["x-incomplete"]) == (3, "true")
    await client.files.delete(batch.error_file_id)
    rest = await http.get(f"{url}/results?after={first.headers['x-next-cursor']}")
    assert (len(rest.content.splitlines()), rest.headers["x-incomplete"]) == (5, "true")
    assert gone(await http.get(f"{url}/results?after={rest.headers['x-next-cursor']}"), batch.error_file_id)
    assert gone(await http.get(f"{url}/verify"), batch.error_file_id)
    assert gone(await http.post(f"{url}/retry"), batch.error_file_id)
    await client.files.delete(batch.output_file_id)
    assert gone(await http.get(f"{url}/results"), batch.output_file_id)
    assert gone(await http.get(f"{url}/verify"), batch.output_file_id)


async def test_a_deleted_input_is_told(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, batch: Any
) -> None:
    await client.files.delete(batch.input_file_id)
    assert gone(await http.get(f"/v1/batches/{batch.id}/verify"), batch.input_file_id)
    assert gone(await http.post(f"/v1/batches/{batch.id}/retry"), batch.input_file_id)
    assert (await http.get(f"/v1/batches/{batch.id}/results")).status_code == 200


async def test_bytes_that_are_gone_are_no_reason_to_come_again(
    http: httpx.AsyncClient, batch: Any, files_url: str
) -> None:
    (Path(files_url) / "files" / batch.input_file_id).unlink()
    for method, call in (("GET", "verify"), ("POST", "retry")):
        answer = await http.request(method, f"/v1/batches/{batch.id}/{call}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "storage_object_missing")
        assert "retry-after" not in answer.headers


async def test_lines_that_cannot_be_read_fail_the_verification(
    http: httpx.AsyncClient, batch: Any, files_url: str
) -> None:
    path = Path(files_url) / "files" / batch.output_file_id
    whole = path.read_bytes()
    torn = whole.splitlines(keepends=True)
    for data, missing in (
        (b"".join(torn[:-1]) + torn[-1][:40], 1),
        (b"".join([b"nonsense\n", *torn]), 0),
        (whole + b'{"id": 7}\n', 0),
        (whole + b"\xff\xfe\n", 0),
        (whole + b"[" * 100_000, 0),
    ):
        await asyncio.to_thread(path.write_bytes, data)
        answer = await http.get(f"/v1/batches/{batch.id}/verify")
        assert answer.status_code == 200, answer.text
        proof = answer.json()
        assert (proof["ok"], proof["unreadable"], proof["missing"]) == (False, 1, missing)
        assert any(one.startswith("unreadable: line ") for one in proof["examples"])
    path.write_bytes(whole)
    assert (await http.get(f"/v1/batches/{batch.id}/verify")).json()["ok"]


async def test_a_cursor_behind_the_end_of_a_file_is_refused(
    http: httpx.AsyncClient, batch: Any, parts_go: Callable
) -> None:
    await parts_go(batch.id)
    answer = await http.get(
        f"/v1/batches/{batch.id}/results", params={"after": Position(file=(0, 10**12)).encode()}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")
    assert json.loads(answer.content)["error"]["code"] == "invalid_request"
