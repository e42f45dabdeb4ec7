"""Large bodies lie in the storage, Redis has references, and nothing stays when the record goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from api.responses.history import room_for
from api.services import Services
from api.settings import ApiSettings
from broker.db.client import connect
from broker.db.errors import IdempotencyConflictError, QueueFullError, StoreUnavailableError
from broker.files import FileStore
from broker.jobs import JobStore
from broker.sealing import REQUEST, RESULT
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.references import Reference
from jobs.states import JobState
from storage import MissingObjectError, StoredBodies
from storage.local import LocalStorage
from storage.sealed import SealedStorage
from tests.apiserver import ApiServer
from tests.encryption import key_line
from tests.integration.test_transitions import W, alive, spec, take
from tests.integration.test_worker import chat, ended, ready, start_worker
from tests.namespaces import check_and_empty, new_namespace
from tests.pictures import data_uri, image_part, picture
from tests.puppet import FACTS, Puppet
from tests.support import eventually, new_id

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

LARGE = b'{"prompt":"%b"}' % (b"x" * 300_000)
ANSWER = b'{"text":"%b"}' % (b"y" * 300_000)


class Broken(StoredBodies):
    """A storage that fails."""

    def __init__(self) -> None:
        pass

    async def put(self, key: str, body: bytes) -> str:
        return "the disk is gone"

    async def has(self, key: str) -> None:
        return None


@pytest_asyncio.fixture
async def large(broker_settings: BrokerSettings, tmp_path: Path) -> AsyncIterator[JobStore]:
    """A store with a shared storage in ``tmp_path``."""
    store = store_at(broker_settings, tmp_path)
    await store.large.look(first=True)
    assert store.large.shared
    yield store
    await store.aclose()


def store_at(settings: BrokerSettings, folder: Path) -> JobStore:
    return JobStore(connect(settings.redis_url), settings, bodies=StoredBodies(lambda: LocalStorage(folder)))


def objects(folder: Path) -> set[str]:
    return {path.name for path in (folder / "bodies").glob("*")}


async def swept(store: JobStore, folder: Path) -> None:
    """Do what the coordinator's sweep does with the trash."""
    files, storage = FileStore(store), LocalStorage(folder)
    keys = await files.trash()
    await storage.delete(keys)
    await files.emptied(keys)


async def test_few_large_responses_are_in_memory_at_once(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    services = Services(ApiSettings(redis_url=broker_settings.redis_url, namespace=broker_settings.namespace))
    await alive(store)
    now = most = 0

    async def hold(job_id: str) -> None:
        nonlocal now, most
        async with room_for(services, job_id, None):
            now += 1
            most = max(most, now)
            if now == at_once:
                full.set()
            await asyncio.wait_for(full.wait(), 20)
            for _ in range(10):  # nobody else gets in
                await store.client.ping()
            now -= 1

    try:
        for body, at_once in ((LARGE, 2), (b'{"input":"hi"}', 8)):
            job = await store.accept(spec(body=body))
            most, full = 0, asyncio.Event()
            await asyncio.gather(*(hold(job.id) for _ in range(8)))
            assert most == at_once
            await store.cancel(job.id)
    finally:
        await services.aclose()


async def retire(store: JobStore, settings: BrokerSettings) -> None:
    """Have the reaper delete the records of ended jobs now."""
    eager = JobStore(store.client, settings.model_copy(update={"retention_s": 0.001}))

    async def gone() -> bool:
        await eager.reap()
        return not await store.client.exists(store.keys("jobs"))

    await eventually(gone)


async def test_a_large_job_goes_through_the_storage_and_leaves_nothing(
    large: JobStore, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    await alive(large)
    job = await large.accept(spec(body=LARGE), in_storage=True)
    record = large.keys("job", job.id)
    assert await large.client.memory_usage(record) < 2000
    assert await large.body_bytes(job.id, REQUEST) == len(LARGE)
    claim = await take(large)
    assert (claim.body, claim.reference) == (b"", Reference(len(LARGE), 0))  # the reply brought no body
    assert await large.body_of(claim) == LARGE
    assert await large.finish(claim, W, JobState.SUCCEEDED, status=200, result=ANSWER)
    assert await large.body_bytes(job.id, RESULT) == len(ANSWER)
    assert await large.body_bytes(job.id, RESULT, owner="another") == 0
    assert await large.client.memory_usage(record) < 2000
    assert (await large.result(job.id)).body == ANSWER
    found, stored = await large.get_with_result(job.id)
    assert (found.state, stored.body) == (JobState.SUCCEEDED, ANSWER)
    assert objects(tmp_path) == {f"{job.id}.req.0", f"{job.id}.result.1"}
    assert await large.client.zcard(large.keys("files_announced")) == 0
    await retire(large, broker_settings)
    assert not await large.client.exists(large.keys("objects"))
    await swept(large, tmp_path)
    assert not objects(tmp_path)


async def test_small_bodies_touch_no_storage(large: JobStore, tmp_path: Path) -> None:
    await alive(large)
    await large.accept(spec(), in_storage=True)
    claim = await take(large)
    assert (claim.reference, await large.body_of(claim)) == (None, spec().body)
    assert await large.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    assert not objects(tmp_path)
    assert not await large.client.exists(large.keys("objects"))


async def test_the_end_is_published_without_the_reference(
    large: JobStore, broker_settings: BrokerSettings
) -> None:
    await alive(large)
    await large.accept(spec(body=LARGE, sink="api-1"), in_storage=True)
    claim = await take(large)
    listener = connect(broker_settings.redis_url, text=False)
    async with listener.pubsub() as channel:
        await channel.subscribe(large.keys("api_channel", "api-1"))
        await large.finish(claim, W, JobState.SUCCEEDED, result=ANSWER)

        async def end() -> bytes | None:
            message = await channel.get_message(ignore_subscribe_messages=True)
            return None if message is None else message["data"]

        told = await eventually(end)
    await listener.aclose()
    assert b'"succeeded"' in told
    assert b"ref " not in told


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_refused_submission_leaves_no_object(
    large: JobStore, broker_settings: BrokerSettings, tmp_path: Path, key: str | None
) -> None:
    small = JobStore(large.client, broker_settings.model_copy(update={"queue_max": 1}))
    small.large = large.large
    first = spec(body=LARGE, idempotency_key=key)
    await small.accept(first, in_storage=True)
    kept = {f"{first.id}.req.0"}
    refusal = QueueFullError if key is None else IdempotencyConflictError
    with pytest.raises(refusal):
        await small.accept(spec(body=LARGE + b" ", idempotency_key=key), in_storage=True)
    assert objects(tmp_path) == kept
    if key is not None:  # a replay needs none, too
        assert (await small.accept(spec(body=LARGE, idempotency_key=key), in_storage=True)).id == first.id
        assert objects(tmp_path) == kept
    assert await large.client.zcard(large.keys("files_announced")) == 0


async def test_what_a_crash_leaves_between_object_and_record_is_an_orphan(
    large: JobStore, tmp_path: Path
) -> None:
    lost, files = new_id(), FileStore(large)
    await large.large.store(lost, "req", LARGE)  # and the process ends
    kept = spec(body=LARGE)
    await large.accept(kept, in_storage=True)
    await large.large.announce(kept.id, f"bodies/{kept.id}.req.0")  # as the client library sends a call twice
    assert await files.orphans(3600) == []
    assert await files.orphans(-1) == [f"bodies/{lost}.req.0"]
    await swept(large, tmp_path)
    assert objects(tmp_path) == {f"{kept.id}.req.0"}


async def test_a_fenced_attempt_leaves_no_object_and_the_other_keeps_its_own(
    large: JobStore, tmp_path: Path
) -> None:
    await alive(large)
    await large.accept(spec(body=LARGE), in_storage=True)
    lost = await take(large)
    await large.release(lost, W, "released")
    claim = await take(large)
    assert await large.finish(claim, W, JobState.CANCELLED, partial=ANSWER)
    assert not await large.finish(lost, W, JobState.SUCCEEDED, result=ANSWER)
    assert objects(tmp_path) == {f"{claim.id}.req.0", f"{claim.id}.partial.2"}
    assert (await large.result(claim.id)).partial == ANSWER


async def test_a_failure_keeps_its_large_answer_and_a_retry_does_not(large: JobStore, tmp_path: Path) -> None:
    await alive(large)
    await large.accept(spec(body=LARGE, max_attempts=2), in_storage=True)
    error = JobError(FailureCode.ENGINE_ERROR, "no")
    claim = await take(large)
    state = await large.retry_later(claim, W, error, 0.0, status=500, result=ANSWER)
    assert state is JobState.QUEUED
    assert objects(tmp_path) == {f"{claim.id}.req.0"}
    claim = await eventually(lambda: claimed_again(large))
    state = await large.retry_later(claim, W, error, 0.0, status=500, result=ANSWER)
    assert state is JobState.FAILED
    assert (await large.result(claim.id)).body == ANSWER


async def claimed_again(store: JobStore):
    await store.reap()
    claims = await store.claim(W)
    return claims[0] if claims else None


async def test_a_retry_has_a_copy_of_its_own(
    large: JobStore, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    await alive(large)
    job = await large.accept(spec(body=LARGE), in_storage=True)
    await large.finish(await take(large), W, JobState.FAILED, error=JobError(FailureCode.TIMEOUT, "t"))
    again = await large.respec(job.id, new_id())
    assert again.body == LARGE
    await large.accept(again, in_storage=True)
    await retire_one(large, broker_settings)
    await swept(large, tmp_path)
    assert objects(tmp_path) == {f"{again.id}.req.0"}
    assert await large.body_of(await take(large)) == LARGE


async def retire_one(store: JobStore, settings: BrokerSettings) -> None:
    eager = JobStore(store.client, settings.model_copy(update={"retention_s": 0.001}))

    async def gone() -> bool:
        await eager.reap()
        return await store.client.zcard(store.keys("jobs")) == 1

    await eventually(gone)


async def test_dropped_bodies_leave_the_storage(large: JobStore, tmp_path: Path) -> None:
    await alive(large)
    await large.accept(spec(body=LARGE, once=True, keep_ms=60_000), in_storage=True)
    claim = await take(large)
    await large.finish(claim, W, JobState.SUCCEEDED, result=ANSWER)
    assert await large.drop_bodies(claim.id, owner="default")
    await swept(large, tmp_path)
    assert not objects(tmp_path)


async def test_a_follower_has_the_large_result_of_its_leader(large: JobStore) -> None:
    await alive(large)
    first = await large.accept(spec(body=LARGE, coalesce="same"), in_storage=True)
    second = await large.accept(spec(body=LARGE, coalesce="same"), in_storage=True)
    claim = await take(large)
    assert claim.id == first.id
    await large.finish(claim, W, JobState.SUCCEEDED, status=200, result=ANSWER)
    assert (await large.result(second.id)).body == ANSWER


async def test_with_keys_no_object_has_the_text(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    settings = broker_settings.model_copy(update={"encryption_keys": SecretStr(key_line())})
    sealed = SealedStorage(LocalStorage(tmp_path), settings.keyring)
    store = JobStore(connect(settings.redis_url), settings, bodies=StoredBodies(lambda: sealed))
    await store.large.look(first=True)
    await alive(store)
    await store.accept(spec(body=LARGE), in_storage=True)
    claim = await take(store)
    assert await store.body_of(claim) == LARGE
    (name,) = objects(tmp_path)
    assert b"xxxxxxxx" not in (tmp_path / "bodies" / name).read_bytes()
    await store.aclose()


async def test_without_a_storage_that_works_bodies_stay_in_redis(broker_settings: BrokerSettings) -> None:
    store = JobStore(connect(broker_settings.redis_url), broker_settings, bodies=Broken())
    store.large.shared = True
    await alive(store)
    await store.accept(spec(body=LARGE), in_storage=True)
    claim = await take(store)
    assert (claim.reference, claim.body) == (None, LARGE)
    await store.aclose()


async def test_whether_the_storage_is_shared_is_not_known_before_an_api_has_named_it(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    here, there = store_at(broker_settings, tmp_path), store_at(broker_settings, tmp_path / "other")
    for store in (here, there):
        assert store.large.shared is None
        await store.large.look()
        assert store.large.shared is None
    await here.large.look(first=True)
    await there.large.look()
    assert (here.large.shared, there.large.shared) == (True, False)
    await asyncio.gather(here.aclose(), there.aclose())


async def test_who_has_another_storage_writes_no_reference(
    large: JobStore, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    other = store_at(broker_settings, tmp_path / "other")
    await other.large.look()
    assert not other.large.shared
    await alive(large)
    await large.accept(spec(body=LARGE), in_storage=True)
    claim = await take(other)
    with pytest.raises(MissingObjectError):
        await other.body_of(claim)
    await other.finish(claim, W, JobState.SUCCEEDED, result=ANSWER)
    assert (await large.result(claim.id)).body == ANSWER
    same = store_at(broker_settings, tmp_path)
    await same.large.look()
    assert same.large.shared
    await asyncio.gather(other.aclose(), same.aclose())


async def test_redis_away_leaves_the_object_for_its_record(large: JobStore, tmp_path: Path) -> None:
    await large.large.store(new_id(), "req", LARGE)
    gone = JobStore(
        connect("redis://127.0.0.1:1/0", retries=0), BrokerSettings(), bodies=large.large._storage
    )
    with pytest.raises(StoreUnavailableError):
        await gone.accept(spec(body=LARGE), in_storage=True)
    await gone.aclose()


async def api_sees(api: ApiServer, *, shares: bool) -> None:
    await eventually(lambda: api.services.catalogue.shares_storage("default") is shares)


async def test_a_call_of_any_size_is_answered(valkey, tmp_path: Path) -> None:
    """Through the api, which finds that its one worker has its storage."""
    settings = new_namespace(valkey)
    with ApiServer(settings, data_dir=tmp_path) as api:
        store = store_at(settings, tmp_path / "files")
        await eventually(lambda: api.services.store.large.shared)
        await store.large.look()
        puppet = Puppet(store)
        body = {
            "model": "puppet",
            "messages": [{"role": "user", "content": [image(400_000)]}],
            "max_tokens": 5,
        }
        async with api.client() as http:
            for shares in (True, False):
                await puppet.live(shares_storage=shares)
                await api_sees(api, shares=shares)
                asked = asyncio.create_task(http.post("/v1/chat/completions", json=body))
                claim = await puppet.take()
                assert (claim.reference is not None) is shares
                assert json.loads(await store.body_of(claim)) == body
                await puppet.succeed(claim, ANSWER)
                assert (await asked).content == ANSWER
                assert (await http.get(f"/v1/jobs/{claim.id}/result")).content == ANSWER
        await store.aclose()
    check_and_empty(settings)


async def test_a_picture_of_nine_megabytes_does_not_go_through_redis(valkey, tmp_path: Path) -> None:
    """Neither with its job, nor to a worker that could count its tokens; and its turn is not that of a huge prompt."""
    settings = new_namespace(valkey)
    uri = data_uri(picture() + bytes(9_000_000 * 3 // 4))
    body = {"model": "puppet", "messages": [{"role": "user", "content": [image_part(uri)]}], "max_tokens": 5}
    assert len(uri) > 9_000_000
    with ApiServer(settings, data_dir=tmp_path) as api:
        store = store_at(settings, tmp_path / "files")
        await eventually(lambda: api.services.store.large.shared)
        await store.large.look()
        puppet = Puppet(store)
        able = {"images": 4, "image_tokens": 4096}
        await puppet.live(facts={**FACTS, "prompt_overhead": 8, "capabilities": able}, shares_storage=True)
        await api_sees(api, shares=True)
        async with api.client() as http:
            before = (await store.client.info("stats"))["total_net_input_bytes"]
            asked = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            claim = await puppet.take()
            assert claim.reference is not None
            after = (await store.client.info("stats"))["total_net_input_bytes"]
            assert after - before < 1_000_000
            assert json.loads(await store.body_of(claim)) == body
            cost: Any = await store.client.hget(store.keys("job", claim.id), "cost")
            assert 1024 <= int(cost) < 2048
            await puppet.succeed(claim, ANSWER)
            assert (await asked).content == ANSWER
        await store.aclose()
    check_and_empty(settings)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_stream_says_that_its_large_result_is_not_there(valkey, tmp_path: Path, path: str) -> None:
    """The head was sent already, and the result that its end needs lies in a storage that this api does not have."""
    settings = new_namespace(valkey)
    with ApiServer(settings, data_dir=tmp_path / "api", sse_ping_s=0.05) as api:
        store = store_at(settings, tmp_path / "other")
        store.large.shared = True
        puppet = Puppet(store)
        await puppet.live(facts={**FACTS, "endpoints": [path]})
        body = {"model": "puppet", "stream": True}
        if path == "/v1/responses":
            body |= {"input": "hi", "background": True}
        else:
            body |= {"messages": [{"role": "user", "content": "hi"}]}
        async with api.client() as http, http.stream("POST", path, json=body) as got:
            claim = await puppet.take()
            lines = got.aiter_lines()
            assert await anext(lines)
            await puppet.succeed(claim, ANSWER)
            rest = [line async for line in lines]
        errors = [json.loads(line[6:]) for line in rest if "storage_object_missing" in line]
        assert [one["error"]["code"] for one in errors] == ["storage_object_missing"]
        await store.aclose()
    check_and_empty(settings)


def image(size: int) -> dict:
    return image_part(data_uri(picture() + bytes(size)))


async def test_a_worker_reads_large_requests_and_one_without_the_storage_gives_them_back(
    large: JobStore, ready: Any, tmp_path: Path
) -> None:
    body = chat("z" * 300_000, max_tokens=1)
    quick = {"retry_base_s": 0.01, "reap_interval_s": 0.1}
    job = spec(body=body, endpoint="/v1/chat/completions", model="simulated", max_attempts=2)
    await large.accept(job, in_storage=True)
    await ready("w1", files_url=str(tmp_path / "other"), **quick)
    failed = await ended(large, job.id)
    assert failed.phase.error.code is FailureCode.STORAGE_UNAVAILABLE
    assert (failed.attempt, failed.history[0].reason) == (2, FailureCode.STORAGE_UNAVAILABLE)
    (worker,) = await large.workers()
    assert worker["shares_storage"] is False


async def test_a_worker_with_the_storage_runs_them(large: JobStore, ready: Any, tmp_path: Path) -> None:
    body = chat(user="z" * 300_000, max_tokens=400)
    job = spec(body=body, endpoint="/v1/chat/completions", model="simulated")
    await large.accept(job, in_storage=True)
    await ready("w2", files_url=str(tmp_path), inline_bytes=1024)
    assert (await ended(large, job.id)).state is JobState.SUCCEEDED
    assert objects(tmp_path) == {f"{job.id}.req.0", f"{job.id}.result.1"}
    assert json.loads((await large.result(job.id)).body)["usage"]["completion_tokens"] == 400
    (worker,) = await large.workers()
    assert worker["shares_storage"] is True
