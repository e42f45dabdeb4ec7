"""Encryption at rest: nothing of a prompt or an answer lies in Redis in clear, and every reader gets it as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from broker.claims import Claim
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import Failed
from jobs.sealing import DamagedError, UnknownKeyError
from jobs.states import JobState
from jobs.stream_chunks import Text
from tests.apiserver import ApiServer
from tests.batching import create, ended, lines, row
from tests.coordinators import CoordinatorThread
from tests.encryption import key_line, places_of
from tests.integration.test_api_openai import HEAD
from tests.integration.test_transitions import alive, spec, take
from tests.integration.test_worker import ready, start_worker
from tests.puppet import MODEL, Puppet
from tests.s3server import S3Server
from tests.support import eventually

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
MARK = "Heidelberg-1386-Ruprecht"
K1, K2 = key_line("k1"), key_line("k2")


@asynccontextmanager
async def store_with(settings: BrokerSettings, keys: str | None) -> AsyncIterator[JobStore]:
    given = settings.model_dump() | {"encryption_keys": keys}
    store = JobStore(connect(settings.redis_url), BrokerSettings(**given))
    try:
        yield store
    finally:
        await store.aclose()


async def run(store: JobStore, result: bytes, **changes: Any) -> Claim:
    """Accept a job, and end it with a result."""
    await alive(store)
    await store.accept(spec(**changes))
    claim = await take(store)
    assert await store.finish(claim, "worker-a", JobState.SUCCEEDED, status=200, result=result)
    return claim


@pytest.mark.parametrize("keys", [None, K1], ids=["clear", "encrypted"])
async def test_a_whole_round_leaves_text_in_redis_without_keys_alone(
    broker_settings: BrokerSettings, ready: Callable, keys: str | None
) -> None:
    body = {"model": "simulated", "messages": [{"role": "user", "content": f"{MARK} " * 20}], "max_tokens": 8}
    await ready(encryption_keys=keys)
    with ApiServer(broker_settings, encryption_keys=keys) as api:
        async with api.client() as http:
            said = (await http.post(CHAT, json=body)).json()["choices"][0]["message"]["content"]
            streamed = (await http.post(CHAT, json=body | {"stream": True})).text
            assert streamed.endswith("data: [DONE]\n\n")
            job = {"endpoint": CHAT, "input": body | {"stream": True}}
            job_id = (await http.post("/v1/jobs?wait=20", json=job)).json()["id"]
            got = (await http.get(f"/v1/jobs/{job_id}/result")).json()
            assert got["choices"][0]["message"]["content"] == said
            events = (await http.get(f"/v1/jobs/{job_id}/events")).text
            assert "event: chunk" in events
            assert "event: succeeded" in events
            resumed = await http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": "1-1"})
            assert "event: chunk" in resumed.text
            items = {"items": [{"role": "user", "content": MARK}]}
            talk = f"/v1/conversations/{(await http.post('/v1/conversations', json=items)).json()['id']}"
            assert MARK in (await http.get(f"{talk}/items")).text
    found = [bool(places_of(text, broker_settings)) for text in (MARK, said[:24])]
    assert found == [keys is None] * 2


async def test_bodies_of_every_kind_come_back_as_they_were(broker_settings: BrokerSettings) -> None:
    async with store_with(broker_settings, K1) as store:
        large = b'{"x":"' + b"y" * 3_000_000 + b'"}'
        await alive(store)
        await store.accept(spec(body=large, stream=True))
        claim = await take(store)
        assert (claim.body, claim.unreadable) == (large, None)
        await store.append([(claim.id, 1, 1, "t\u00e9"), (claim.id, 1, 2, "j{}")])
        await store.finish(
            claim, "worker-a", JobState.CANCELLED, partial=b'{"p":1}', result=large, tail=[(3, "tz")]
        )
        assert (await store.log(claim.id, "0-0"))[2:5] == [("1-1", "t\u00e9"), ("1-2", "j{}"), ("1-3", "tz")]
        assert await store.log_entry(claim.id, "1-3") == "tz"
        stored = await store.result(claim.id)
        assert (stored.body, stored.partial) == (large, b'{"p":1}')
        again = await store.respec(claim.id, "job_" + "0" * 32)
        assert again.body == large
        assert not places_of("y" * 40, broker_settings)


async def test_after_a_rotation_the_old_keys_data_is_read_and_the_new_key_encrypts(
    broker_settings: BrokerSettings,
) -> None:
    async with store_with(broker_settings, None) as store:
        clear = await run(store, b'{"in":"clear"}')
    async with store_with(broker_settings, K1) as store:
        first = await run(store, b'{"by":"k1"}')
        again = spec(idempotency_key="once")
        assert not (await store.accept(again)).replayed
    async with store_with(broker_settings, f"{K2}\n{K1}") as store:
        assert (await store.result(clear.id)).body == b'{"in":"clear"}'
        assert (await store.result(first.id)).body == b'{"by":"k1"}'
        assert (await store.accept(spec(idempotency_key="once"))).replayed
        claim = await take(store)
        assert (claim.id, claim.body) == (again.id, again.body)
        await store.finish(claim, "worker-a", JobState.SUCCEEDED, status=200, result=b'{"by":"k2"}')
    async with store_with(broker_settings, K2) as store:
        assert (await store.result(claim.id)).body == b'{"by":"k2"}'
        with pytest.raises(UnknownKeyError, match="'k1'"):
            await store.result(first.id)
    async with store_with(broker_settings, None) as store:
        with pytest.raises(UnknownKeyError, match="'k2'"):
            await store.result(claim.id)


async def test_a_follower_reads_the_sealed_result_of_the_job_that_has_it(
    broker_settings: BrokerSettings,
) -> None:
    async with store_with(broker_settings, K1) as store:
        leader, follower = spec(coalesce="sum"), spec(coalesce="sum")
        await store.accept(leader)
        await store.accept(follower)
        await alive(store)
        await store.finish(await take(store), "worker-a", JobState.SUCCEEDED, status=200, result=b'{"x":1}')
        for one in (leader, follower):
            assert (await store.result(one.id)).body == b'{"x":1}'
            assert (await store.get_with_result(one.id))[1].body == b'{"x":1}'


async def test_a_changed_or_swapped_body_is_an_error_and_no_garbage(broker_settings: BrokerSettings) -> None:
    async with store_with(broker_settings, K1) as store:
        one, other = await run(store, b'{"n":1}'), await run(store, b'{"n":2}')
        field = store.keys("job", one.id), "result"
        mine = (await store.client.hget(*field)).encode()
        theirs = await store.client.hget(store.keys("job", other.id), "result")
        for wrong in (mine[:-8] + b"AAAAAAA=", mine[:40], b"\x01psk", theirs):
            await store.client.hset(*field, wrong)
            with pytest.raises(DamagedError):
                await store.result(one.id)
        await store.client.hset(*field, mine)
        assert (await store.result(one.id)).body == b'{"n":1}'


async def test_a_worker_without_the_key_gives_the_job_another_try_and_then_says_why(
    broker_settings: BrokerSettings, ready: Callable
) -> None:
    async with store_with(broker_settings, K1) as store:
        await store.accept(job := spec(model="simulated", endpoint="/v1/chat/completions", max_attempts=2))
        worker = await ready(encryption_keys=K2, retry_base_s=0.01)

        async def failed() -> Failed | None:
            phase = (await store.get(job.id)).phase
            return phase if isinstance(phase, Failed) else None

        phase = await eventually(failed)
        assert (phase.error.code, phase.status) == (FailureCode.ENCRYPTION_KEY_UNKNOWN, 503)
        assert "'k1'" in phase.error.message
        assert K1.partition(":")[2] not in worker.log.read_text()
        assert "request_unreadable" in worker.log.read_text()


async def test_an_api_without_the_key_says_so(broker_settings: BrokerSettings) -> None:
    async with store_with(broker_settings, K1) as store:
        puppet = Puppet(store)
        await puppet.live()
        with ApiServer(broker_settings, encryption_keys=K2) as api:
            async with api.client() as http:
                body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
                for stream in (False, True):
                    asked = asyncio.create_task(http.post(CHAT, json=body | {"stream": stream}))
                    claim = await eventually(lambda: store.claim(puppet.name))
                    if stream:
                        await puppet.say(claim[0], Text("a"))
                    else:
                        await puppet.succeed(claim[0])
                    got = await asked
                    error = got.json()["error"]
                    assert (got.status_code, error["code"]) == (503, "encryption_key_unknown")
                    assert "'k1'" in error["message"]
                await puppet.succeed(claim[0])
                for path in (f"/v1/jobs/{claim[0].id}", f"/v1/jobs/{claim[0].id}/result"):
                    assert (await http.get(path)).status_code == 503
                listed = (await http.get("/v1/jobs")).json()["data"]
                assert len(listed) == 2


async def test_a_stream_that_turns_unreadable_ends_with_the_error(broker_settings: BrokerSettings) -> None:
    async with store_with(broker_settings, K1) as store, store_with(broker_settings, K2) as other:
        puppet = Puppet(store)
        await puppet.live()
        with ApiServer(broker_settings, encryption_keys=K1) as api:
            async with api.client() as http:
                body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
                asking = asyncio.create_task(
                    http.send(http.build_request("POST", CHAT, json=body), stream=True)
                )
                claim = await puppet.take()
                await puppet.say(claim, HEAD, Text("so far"))
                got = await asking  # the response has begun
                await Puppet(other).say(claim, *(Text(str(n)) for n in range(4)))
                assert b"encryption_key_unknown" in await got.aread()
                assert got.status_code == 200


@pytest.mark.parametrize("where", ["directory", "s3"])
async def test_a_batch_goes_its_whole_way_encrypted(
    broker_settings: BrokerSettings, ready: Callable, tmp_path: Path, where: str
) -> None:
    with S3Server() as s3:
        files = tmp_path / "files"
        given = s3.settings("b") if where == "s3" else {"files_url": str(files)}
        given["encryption_keys"] = f"{K2}\n{K1}"
        await ready(retry_base_s=0.05, **given)
        with (
            CoordinatorThread(broker_settings, batch_chunk_rows=10, **given),
            ApiServer(broker_settings, **given) as api,
        ):
            async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none") as client:
                batch = await create(client, [row(n, f"{MARK} " * 40, max_tokens=8) for n in range(35)])
                done = await ended(client, batch.id)
                assert (done.status, done.request_counts.completed) == ("completed", 35)
                found = await lines(client, done.output_file_id)
                assert sorted(one["custom_id"] for one in found) == sorted(f"row-{n}" for n in range(35))
                said = found[0]["response"]["body"]["choices"][0]["message"]["content"]
                size = (await client.files.retrieve(done.output_file_id)).bytes
                whole = (await client.files.content(done.output_file_id)).read()
                assert len(whole) == size
                url = f"{api.url}/v1/files/{done.output_file_id}/content"
                async with httpx.AsyncClient() as http:
                    some = await http.get(url, headers={"range": "bytes=100-199"})
                assert (some.status_code, some.content) == (206, whole[100:200])
                verified = await client.get(f"/batches/{batch.id}/verify", cast_to=dict[str, Any])
                assert verified["ok"]
        for text in (MARK, said[:24]):
            assert not places_of(text, broker_settings, tmp_path)
        assert where == "s3" or list(files.rglob("*.sealed"))


async def test_a_batch_whose_input_cannot_be_decrypted_says_why(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    given = {"files_url": str(tmp_path / "files")}
    with (
        CoordinatorThread(broker_settings, encryption_keys=K2, **given),
        ApiServer(broker_settings, encryption_keys=K1, **given) as api,
    ):
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
            batch = await create(client, [row(1)])

            async def held() -> bool:
                found = (await client.batches.retrieve(batch.id)).to_dict()
                return found["pause_reason"] == "encryption_key_unknown"

            await eventually(held)
            await client.batches.cancel(batch.id)
            for path in (tmp_path / "files").rglob("*.sealed"):
                path.write_bytes(path.read_bytes()[:-1] + b"?")
            with pytest.raises(openai.InternalServerError) as told:
                await client.files.content(batch.input_file_id)
            assert told.value.code == "decryption_failed"
