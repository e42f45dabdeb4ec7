"""``store: false``: request, result and log are there until the owner has the result, or for a short while."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from broker.db.client import connect
from broker.db.errors import BodyGoneError
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.states import JobState
from jobs.stream_chunks import Text
from tests.integration.test_api_openai import BODY, CHAT, HEAD
from tests.integration.test_transitions import alive, spec, take
from tests.puppet import Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

HELD = {"req", "result", "partial"}


async def bodies(store: JobStore, job_id: str) -> set[str]:
    """Return what is stored of a job's bodies."""
    found = HELD & set(await store.client.hkeys(store.keys("job", job_id)))
    return found | ({"log"} if await store.client.exists(store.keys("log", job_id)) else set())


async def dropped(store: JobStore, job_id: str) -> None:
    async def gone() -> bool:
        return not await bodies(store, job_id)

    await eventually(gone)


async def submitted(http: httpx.AsyncClient, **fields: Any) -> str:
    answer = await http.post("/v1/jobs", json={"endpoint": CHAT, "input": BODY, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}/result"])
async def test_a_result_is_there_for_one_fetch(http: httpx.AsyncClient, puppet: Puppet, path: str) -> None:
    job_id = await submitted(http, store=False, stream=True)
    assert (await http.get(path.format(job_id))).status_code in {200, 409}  # no fetch: it has not ended
    claim = await puppet.take()
    await puppet.say(claim, HEAD, Text("a"))
    await puppet.succeed(claim, b'{"x":1}')
    assert await bodies(puppet.store, job_id) == {"req", "result", "log"}
    assert (
        await http.get(f"/v1/jobs/{job_id}/events")
    ).status_code == 200  # a look at its events is none, too
    assert await bodies(puppet.store, job_id) == {"req", "result", "log"}
    got = await http.get(path.format(job_id))
    assert got.status_code == 200
    assert b'"x":1' in got.content
    await dropped(puppet.store, job_id)
    again = await http.get(f"/v1/jobs/{job_id}/result")
    assert (again.status_code, again.json()["error"]["code"]) == (410, "result_gone")
    shown = (await http.get(f"/v1/jobs/{job_id}")).json()
    assert (shown["state"], shown["result"], shown["usage"]["total_tokens"]) == ("succeeded", None, 5)
    retried = await http.post(f"/v1/jobs/{job_id}/retry")
    assert (retried.status_code, retried.json()["error"]["code"]) == (410, "result_gone")


async def test_without_it_a_result_can_be_fetched_again(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await submitted(http)
    await puppet.succeed(await puppet.take(), b'{"x":1}')
    for _ in range(3):
        assert (await http.get(f"/v1/jobs/{job_id}/result")).content == b'{"x":1}'
    assert not await puppet.store.drop_bodies(job_id, owner="default")
    assert await bodies(puppet.store, job_id) == {"req", "result"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_was_answered_leaves_no_bodies(
    http: httpx.AsyncClient, puppet: Puppet, stream: bool
) -> None:
    asked = asyncio.create_task(http.post(CHAT, json=BODY | {"store": False, "stream": stream}))
    claim = await puppet.take()
    assert b'"store":false' in claim.body.replace(b" ", b"")  # the engine gets the body as it came
    if stream:
        await puppet.say(claim, HEAD, Text("a"))
    await puppet.succeed(claim, b'{"x":1}')
    assert (await asked).status_code == 200
    await dropped(puppet.store, claim.id)
    assert (await puppet.store.get(claim.id)).state is JobState.SUCCEEDED


async def test_a_submission_that_waited_has_fetched_it(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job = {"endpoint": CHAT, "input": BODY | {"store": False}}
    asked = asyncio.create_task(http.post("/v1/jobs?wait=20", json=job))
    claim = await puppet.take()
    await puppet.succeed(claim, b'{"x":1}')
    assert (await asked).json()["result"] == {"x": 1}
    await dropped(puppet.store, claim.id)


async def test_a_failed_one_that_was_fetched_is_no_longer_among_the_dead(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    job_id = await submitted(http, store=False)
    await puppet.fail(await puppet.take(), JobError(FailureCode.TIMEOUT, "too long"), 504)
    assert [job.id for job in (await puppet.store.list_dead()).jobs] == [job_id]
    assert (await http.get(f"/v1/jobs/{job_id}/result")).status_code == 504
    await dropped(puppet.store, job_id)
    assert (await puppet.store.list_dead()).jobs == ()


async def ended(store: JobStore, **changes: Any) -> str:
    """End a job and return its id."""
    await store.accept(job := spec(**changes))
    claim = await take(store)
    await store.finish(claim, "worker-a", JobState.SUCCEEDED, status=200, result=b"{}")
    return job.id


async def test_it_is_kept_for_its_own_time_and_trimmed_from_the_indexes(store: JobStore) -> None:
    await alive(store)
    brief, other = await ended(store, keep_ms=60, once=True, stream=True), await ended(store)

    async def forgotten() -> bool:
        await store.reap()
        return await store.client.zscore(store.keys("jobs"), brief) is None

    await eventually(forgotten)
    assert await store.get(brief) is None
    assert await bodies(store, brief) == set()
    assert await store.client.zscore(store.keys("ended", "succeeded"), brief) is None
    assert await bodies(store, other) == {"req", "result"}


async def test_it_may_be_kept_longer_than_others(broker_settings: BrokerSettings, store: JobStore) -> None:
    await alive(store)
    short = JobStore(
        connect(broker_settings.redis_url), broker_settings.model_copy(update={"retention_s": 0.05})
    )
    kept, other = await ended(short, keep_ms=100_000), await ended(short)

    async def forgotten() -> bool:
        await short.reap()
        return await short.get(other) is None

    await eventually(forgotten)
    assert await bodies(short, kept) == {"req", "result"}
    assert [job.id for job in (await short.list_jobs()).jobs] == [kept]
    await short.aclose()


async def test_only_the_owner_s_fetch_counts_and_only_after_the_end(store: JobStore) -> None:
    await alive(store)
    job = spec(once=True, keep_ms=60_000, tenant="alice")
    await store.accept(job)
    assert not await store.drop_bodies(job.id, owner="alice")
    claim = await take(store)
    assert not await store.drop_bodies(job.id, owner="alice")
    await store.finish(claim, "worker-a", JobState.SUCCEEDED, status=200, result=b"{}")
    assert not await store.drop_bodies(job.id, owner="bob")
    assert await bodies(store, job.id) == {"req", "result"}
    again = await store.respec(job.id, new_id())
    assert (again.keep_ms, again.once) == (60_000, True)
    assert await store.drop_bodies(job.id, owner="alice")
    assert await store.drop_bodies(job.id, owner="alice")  # the client library may send it twice
    with pytest.raises(BodyGoneError):
        await store.respec(job.id, new_id())


async def test_it_shares_no_run(store: JobStore) -> None:
    await alive(store)
    leader = spec(coalesce="sum", once=True, keep_ms=1000)
    kept, brief = spec(coalesce="sum"), spec(coalesce="sum", once=True, keep_ms=1000)
    for one in (leader, kept, brief):
        await store.accept(one)
        assert (await store.get(one.id)).coalesced_with is None


async def test_a_tenant_s_retention_holds_for_each_of_its_jobs(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    tenant = "/v1/admin/tenants/default"
    try:
        await http.patch(tenant, json={"retention_s": 0})
        job_id = await submitted(http)
        assert (await puppet.store.get(job_id)).once
        await puppet.succeed(await puppet.take(), b'{"x":1}')
        assert (await http.get(f"/v1/jobs/{job_id}/result")).content == b'{"x":1}'
        await dropped(puppet.store, job_id)
        asked = asyncio.create_task(http.post(CHAT, json=BODY))
        claim = await puppet.take()
        await puppet.succeed(claim, b'{"x":1}')
        assert (await asked).status_code == 200
        await dropped(puppet.store, claim.id)
        await http.patch(tenant, json={"retention_s": 7200})
        kept = await puppet.store.get(await submitted(http))
        assert (kept.keep_ms, kept.once) == (7_200_000, False)
    finally:
        await http.delete(tenant)
