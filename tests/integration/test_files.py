"""OpenAI's Files API, through the openai SDK, on a real api and both storages."""

from __future__ import annotations

import asyncio
import io
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from redis import Redis

from broker.db.keys import Keys
from broker.files import FileStore
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.batch_keys import file_key
from jobs.batch_model import File
from jobs.ids import FILE_PREFIX, make_id
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.coordinators import CoordinatorThread
from tests.encryption import key_line
from tests.redisproxy import RedisProxy
from tests.s3server import S3Server
from tests.support import eventually

pytestmark = pytest.mark.asyncio

LIMIT = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["directory", pytest.param("encrypted", marks=pytest.mark.full), "s3"])
def api(request, broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[ApiServer]:
    given: dict[str, object] = {"files_url": str(tmp_path / "files")}
    if request.param == "s3":
        given = request.getfixturevalue("s3").settings(uuid.uuid4().hex[:8])
    if request.param == "encrypted":
        given["encryption_keys"] = key_line()
    with (
        CoordinatorThread(broker_settings, **given),  # it deletes what has expired
        ApiServer(broker_settings, max_body_bytes=4096, file_max_bytes=LIMIT, **given) as server,
    ):
        yield server


@pytest_asyncio.fixture
async def client(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def upload(client: openai.AsyncOpenAI, data: bytes = b'{"a": 1}\n', name: str = "in.jsonl", **more):
    return await client.files.create(file=(name, io.BytesIO(data)), purpose="batch", **more)


async def test_a_file_goes_there_and_back(client: openai.AsyncOpenAI) -> None:
    data = os.urandom(2_500_000)
    file = await upload(client, data, "naïve rows.jsonl")
    assert file.to_dict() == {
        "id": file.id,
        "object": "file",
        "bytes": len(data),
        "created_at": file.created_at,
        "expires_at": file.created_at + 30 * 86_400,
        "filename": "naïve rows.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert (await client.files.retrieve(file.id)) == file
    assert (await client.files.content(file.id)).read() == data
    assert (await client.files.delete(file.id)).to_dict() == {
        "id": file.id,
        "object": "file",
        "deleted": True,
    }
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)


async def test_ranges(client: openai.AsyncOpenAI, api: ApiServer) -> None:
    file = await upload(client, bytes(range(100)))
    url = f"/v1/files/{file.id}/content"
    async with api.client() as http:

        async def get(asked: str) -> httpx.Response:
            return await http.get(url, headers={"range": asked})

        part = await get("bytes=10-19")
        assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
        assert part.headers["content-range"] == "bytes 10-19/100"
        assert (await get("bytes=90-500")).content == bytes(range(90, 100))
        assert (await get("bytes=95-")).content == bytes(range(95, 100))
        assert (await get("bytes=-3")).content == bytes([97, 98, 99])
        assert (await get("lines=1-2")).status_code == 200
        beyond = await get("bytes=100-")
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */100")
        assert beyond.json()["error"]["code"] == "range_not_satisfiable"


async def test_an_empty_file_is_a_file(client: openai.AsyncOpenAI) -> None:
    file = await upload(client, b"")
    assert file.bytes == 0
    assert (await client.files.content(file.id)).read() == b""


async def test_pages(client: openai.AsyncOpenAI) -> None:
    ids = [(await upload(client, name=f"{n}.jsonl")).id for n in range(5)]
    other = await client.files.create(file=("x", b"x"), purpose="user_data")
    page = await client.files.list(limit=2, purpose="batch")
    assert [file.id for file in page.data] == [ids[4], ids[3]]
    assert page.has_more
    seen = [file.id async for file in client.files.list(limit=2, purpose="batch", order="asc")]
    assert seen == ids
    assert [file.id async for file in client.files.list(limit=4)] == [other.id, *reversed(ids)]
    await client.files.delete(ids[2])
    rest = await client.files.list(after=ids[2], order="asc", purpose="batch")
    assert [file.id for file in rest.data] == ids[3:]
    with pytest.raises(openai.BadRequestError):
        await client.files.list(after="nonsense")


async def test_pages_are_by_creation_and_not_by_id(
    client: openai.AsyncOpenAI, api: ApiServer, store: JobStore
) -> None:
    """An id is made when an upload begins, and that of an output file with its batch."""
    files, uploaded = FileStore(store), await upload(client)
    made = [int(uploaded.id[5:17], 16) + n for n in (1, -60_000, 5, -120_000, 60_000)]
    late = [make_id(FILE_PREFIX, ms, bytes(10)) for ms in made]
    for n, ident in enumerate(late):
        purpose = "batch_output" if n % 2 else "batch"
        await asyncio.sleep(0.003)  # two of one millisecond are in the order of their ids
        await files.create(File(ident, 0, "x", purpose, file_key(ident), 0), expires_after_ms=None)
    ids = [uploaded.id, *late]
    assert [file.id async for file in client.files.list(limit=1)] == ids[::-1]
    assert [file.id async for file in client.files.list(limit=4, order="asc")] == ids
    outputs = [late[1], late[3]]
    assert [f.id async for f in client.files.list(limit=1, purpose="batch_output")] == outputs[::-1]
    behind = await client.files.list(after=late[2], order="asc", purpose="batch_output")
    assert [file.id for file in behind.data] == [late[3]]
    seen = []
    async for file in client.files.list(limit=2):
        seen.append(file.id)
        await client.files.delete(file.id)
    assert seen == ids[::-1]


async def test_a_file_that_was_listed_before_creation_times_were_comes_first(
    client: openai.AsyncOpenAI, broker_settings: BrokerSettings
) -> None:
    ids = [(await upload(client)).id for _ in range(4)]
    keys = Keys(broker_settings.namespace)
    with Redis.from_url(broker_settings.redis_url) as redis:
        for name in (keys("files"), keys("files_by_purpose", "batch")):
            redis.zadd(name, dict.fromkeys(ids[:3], 0))
    assert [file.id async for file in client.files.list(limit=1, order="asc")] == ids
    await client.files.delete(ids[1])
    rest = await client.files.list(after=ids[1], limit=10)
    assert [file.id for file in rest.data] == [ids[0]]


async def test_an_upload_whose_answer_from_redis_is_lost_keeps_its_bytes(
    valkey: EmbeddedServer, broker_settings: BrokerSettings, store: JobStore, tmp_path: Path
) -> None:
    with RedisProxy(valkey.url, tmp_path / "proxy.sock") as proxy:
        near = broker_settings.model_copy(update={"redis_url": proxy.url})
        with ApiServer(near, files_url=str(tmp_path / "files")) as api:
            async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
                await upload(client)
                proxy.lose = b"precious.jsonl"
                with pytest.raises(openai.InternalServerError) as unknown:
                    await upload(client, b"bytes", name="precious.jsonl")
                assert unknown.value.code == "redis_unavailable"
                assert proxy.lost
                proxy.lose = None
                found = [file async for file in client.files.list() if file.filename == "precious.jsonl"]
                assert len(found) == 1
                assert await FileStore(store).trash() == []
                assert (await client.files.content(found[0].id)).read() == b"bytes"


async def test_an_object_that_was_never_recorded_goes_in_the_end(
    client: openai.AsyncOpenAI, api: ApiServer, store: JobStore
) -> None:
    files, storage = FileStore(store), api.services.storage
    orphan, late, kept = (make_id(FILE_PREFIX, n, bytes(10)) for n in (1, 2, 3))
    for ident in (orphan, late, kept):
        await files.announce(ident, file_key(ident))
        await storage.put(file_key(ident), b"x")
    await files.create(File(kept, 1, "x", "batch", file_key(kept), 0), expires_after_ms=None)
    recorded = await upload(client)
    assert await files.orphans(3600) == []
    assert sorted(await files.orphans(0)) == sorted([file_key(orphan), file_key(late)])
    await files.create(File(late, 1, "x", "batch", file_key(late), 0), expires_after_ms=None)
    assert file_key(late) not in await files.trash()
    assert await files.orphans(0) == []

    async def left() -> bool:
        names = {info.key for info in await storage.list("files")}
        return file_key(orphan) not in names and {file_key(kept), file_key(recorded.id)} <= names

    await eventually(left)


async def test_refusals_leave_nothing_behind(client: openai.AsyncOpenAI, api: ApiServer) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.files.create(file=("x", b"x"), purpose="lunch")  # type: ignore[arg-type]
    assert wrong.value.param == "purpose"
    with pytest.raises(openai.APIStatusError) as large:
        await upload(client, b"x" * (LIMIT + 1))
    assert (large.value.status_code, large.value.code) == (413, "file_too_large")
    for anchor, seconds in (("created_at", 10), ("tomorrow", 3600)):
        with pytest.raises(openai.BadRequestError) as policy:
            await upload(client, expires_after={"anchor": anchor, "seconds": seconds})
        assert (policy.value.param or "").startswith("expires_after")
    async with api.client() as http:
        none: list[dict[str, Any]] = [
            {"data": {"purpose": "batch"}},
            {"json": {}},
            {"files": {"file": b"x"}},
        ]
        for sent in none:
            answer = await http.post("/v1/files", **sent)
            assert answer.status_code == 400, answer.text
        cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhalf a file'
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert (await http.post("/v1/files", content=cut, headers=kind)).status_code == 400
        again = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        answer = await http.post("/v1/files", content=again * 40 + cut[:-1] + b"\r\n--b--\r\n", headers=kind)
        assert (answer.status_code, "more than 32 fields" in answer.text) == (400, True)
        kind = {"content-type": f"multipart/form-data; boundary={'b' * 257}"}
        assert (await http.post("/v1/files", content=cut, headers=kind)).status_code == 400
    assert (await client.files.list()).data == []
    assert await api.services.storage.list("files") == []


async def test_idempotency(client: openai.AsyncOpenAI, api: ApiServer) -> None:
    key = {"Idempotency-Key": "once"}
    first = await upload(client, extra_headers=key)
    assert (await upload(client, extra_headers=key)).id == first.id
    with pytest.raises(openai.ConflictError):
        await upload(client, b"other", extra_headers=key)
    assert len((await client.files.list()).data) == 1

    async def one_object() -> bool:
        return len(await api.services.storage.list("files")) == 1

    await eventually(one_object)


async def test_a_file_expires(
    client: openai.AsyncOpenAI, api: ApiServer, broker_settings: BrokerSettings
) -> None:
    file = await upload(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    keys = Keys(broker_settings.namespace)
    with Redis.from_url(broker_settings.redis_url) as redis:  # an hour later
        redis.hset(keys("file", file.id), "expires", 1)
        redis.zadd(keys("files_expiry"), {file.id: 1})

    async def gone() -> bool:
        return not (await client.files.list()).data and not await api.services.storage.list("files")

    await eventually(gone)


async def test_many_at_once(client: openai.AsyncOpenAI) -> None:
    files = await asyncio.gather(*(upload(client, b"%d" % n * 1000) for n in range(20)))
    for n, file in enumerate(files):
        assert (await client.files.content(file.id)).read() == b"%d" % n * 1000
