"""The library of functions on a real server: arguments are checked first; two versions work side by side."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from broker.db.calls import attempts as calls
from broker.db.calls.base import Call
from broker.db.calls.jobs import Watch
from broker.db.calls.workers import Heartbeat
from broker.db.client import connect
from broker.db.errors import StoreFaultError
from broker.db.library import PREFIX, Library, functions, library
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.model import SCHEMA_VERSION
from jobs.states import JobState
from tests.integration.test_transitions import W, alive, claimed, spec, take

pytestmark = pytest.mark.asyncio


async def keys_of(store: JobStore) -> set[str]:
    return {key async for key in store.client.scan_iter(f"{store.keys.namespace}:*")}


def a_claim(**changes: Any) -> calls.Claim:
    call = calls.Claim(W, "default", 1, 1, 1, 5, SCHEMA_VERSION, 60_000, "token")
    return msgspec.structs.replace(call, **changes)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (a_claim(room="all"), "claim: room must be a number, not a string"),
        (a_claim(worker=7), "claim: worker must be a string, not a number"),
        (a_claim(again="yes"), "claim: again must be a boolean, not a string"),
        (
            msgspec.structs.replace(Heartbeat(W, 1), ttl_ms=None),
            "heartbeat: ttl_ms must be a number, not a nil",
        ),
        (calls.Append(entries="x"), "append: entries must be a table, not a string"),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_type_is_refused_by_name_before_anything_is_written(
    store: JobStore, call: Any, why: str
) -> None:
    await alive(store)
    await store.accept(spec())
    before = {key: await store.client.dump(key) for key in await keys_of(store)}
    with pytest.raises(StoreFaultError, match=f"bad call of {why}"):
        await store.functions.call(call)
    assert {key: await store.client.dump(key) for key in await keys_of(store)} == before


async def test_every_function_refuses_a_call_without_its_arguments(store: JobStore) -> None:
    """By their names: so each checks, and the server knows each."""
    await store.get((await store.accept(spec())).id)
    before = await keys_of(store)
    suffix = library().name.removeprefix(PREFIX)
    for call in functions():
        needed = [field.name for field in msgspec.structs.fields(call) if field.required]
        if not needed:
            continue
        with pytest.raises(ResponseError, match=f"bad call of {call.function()}: ") as refused:
            await store.client.execute_command(
                "FCALL", f"{call.function()}_{suffix}", 0, store.keys.namespace, msgspec.msgpack.encode({})
            )
        assert any(f": {name} must be" in str(refused.value) for name in needed)
    assert await keys_of(store) == before


async def test_an_answer_that_cannot_be_read_is_one_calls_fault(store: JobStore) -> None:
    """And the calls that shared its round trip get their answers."""

    class Cancel(Call[int]):
        id: str
        retention_ms: int

    job_id = (await store.accept(spec())).id
    bad = store.functions.submit(Cancel(id=job_id, retention_ms=1000))
    good = store.functions.submit(Watch(id=job_id, sink="api-1"))
    with pytest.raises(StoreFaultError, match="cancel"):
        await bad
    assert (await good)[0] == "cancelled"


def other_version() -> Library:
    """Return the library as another version of Penstock has it."""
    _, _, body = library().source.partition("\nlocal LIBRARY, SUFFIX = ")
    body = f"-- another version\n{body.partition(chr(10))[2]}"
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    head = f"#!lua name={PREFIX}{digest}\nlocal LIBRARY, SUFFIX = '{PREFIX}{digest}', '_{digest}'\n"
    return Library(PREFIX + digest, head + body)


async def test_two_versions_work_side_by_side_on_one_namespace(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """As while the processes of a fleet are replaced one by one."""
    other = JobStore(connect(broker_settings.redis_url), broker_settings)
    version = other_version()
    other.functions._library = version
    try:
        await store.client.execute_command("FUNCTION", "LOAD", version.source)
        mine, theirs = await claimed(store), None
        names = {one[1] for one in await store.client.function_list(f"{PREFIX}*")}
        assert {library().name, version.name} <= names
        await alive(other, "worker-b")
        accepted = await other.accept(spec())
        theirs = await take(store)
        assert theirs.id == accepted.id
        assert await other.finish(mine, W, JobState.SUCCEEDED)
        assert await other.release(theirs, W, "released") is JobState.QUEUED
        again = await take(other, "worker-b")
        assert (again.id, again.attempt) == (theirs.id, 2)
        assert await store.finish(again, "worker-b", JobState.SUCCEEDED)
        assert not await store.finish(theirs, W, JobState.SUCCEEDED)
    finally:
        await store.client.function_delete(version.name)
        await other.aclose()


async def test_a_server_without_the_library_gets_it_with_the_first_call_of_any_kind(store: JobStore) -> None:
    accepted = await store.accept(spec())
    for call in (store.look(accepted.id), store.reap(), store.heartbeat(W), store.claim(W)):
        await store.client.function_flush()
        await call
        assert library().name in {one[1] for one in await store.client.function_list()}


async def test_a_library_goes_when_no_live_worker_calls_it(store: JobStore) -> None:
    """A process that calls it all the same loads it again."""
    version = other_version()
    await store.client.execute_command("FUNCTION", "LOAD", version.source)
    await alive(store)
    record = store.keys("worker", W)
    await store.client.sadd(
        store.keys("libraries"), version.name
    )  # as the registration of an earlier worker did
    await store.client.hset(record, "library", version.name)
    assert version.name not in await store.drop_unused_libraries()
    await alive(store)  # by this version
    assert await store.drop_unused_libraries() == [version.name]
    assert await store.drop_unused_libraries() == []
    assert library().name in {one[1] for one in await store.client.function_list()}
