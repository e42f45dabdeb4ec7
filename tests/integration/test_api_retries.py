"""Repeating jobs, the dead and the workers over HTTP, against a real api, a real Valkey and a worker on strings."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError, JobSpec, Usage
from jobs.states import JobState
from tests.apiserver import ApiServer
from tests.integration.test_api_jobs import INPUT, submit
from tests.puppet import MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

BROKEN = JobError(FailureCode.ENGINE_ERROR, "it broke")


async def dead_job(http: httpx.AsyncClient, puppet: Puppet, error: JobError = BROKEN) -> str:
    job = await submit(http)
    await puppet.fail(await puppet.take(), error)
    return str(job["id"])


async def test_a_failed_job_is_repeated(http: httpx.AsyncClient, puppet: Puppet) -> None:
    fields = {"timeout_s": 9.5, "queue_timeout_s": 60, "metadata": {"a": "b"}, "priority": "low"}
    old = await submit(http, **fields)
    assert (old["timeout_s"], old["queue_timeout_s"], old["retry_of"]) == (9.5, 60, None)
    early = await http.post(f"/v1/jobs/{old['id']}/retry")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_not_finished")
    await puppet.fail(await puppet.take(), BROKEN)
    got = await http.post(f"/v1/jobs/{old['id']}/retry", headers={"Idempotency-Key": "k"})
    new = got.json()
    assert (got.status_code, got.headers["location"]) == (202, f"/v1/jobs/{new['id']}")
    assert (new["state"], new["retry_of"]) == ("queued", old["id"])
    for name in ("timeout_s", "queue_timeout_s", "metadata", "priority", "endpoint", "model"):
        assert new[name] == old[name]
    for headers in ({}, {"Idempotency-Key": "k"}):
        again = await http.post(f"/v1/jobs/{old['id']}/retry", headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, new["id"])
    assert (await http.get(f"/v1/jobs/{old['id']}")).json()["retried_as"] == new["id"]
    claim = await puppet.take()
    assert claim.id == new["id"]
    await puppet.succeed(claim)
    assert await puppet.waiting() == 0


@pytest.mark.parametrize("job_id", ["nothing", pytest.param(new_id(), id="unknown")])
async def test_what_is_not_there_is_not_repeated(
    http: httpx.AsyncClient, puppet: Puppet, job_id: str
) -> None:
    got = await http.post(f"/v1/jobs/{job_id}/retry")
    assert (got.status_code, got.json()["error"]["code"]) == (404, "job_not_found")


async def dead(http: httpx.AsyncClient, **query: Any) -> list[str]:
    got = await http.get("/v1/dead", params=query)
    assert got.status_code == 200, got.text
    return [job["id"] for job in got.json()["data"]]


async def test_the_dead_are_listed_and_repeated_in_bulk(http: httpx.AsyncClient, puppet: Puppet) -> None:
    broken = [await dead_job(http, puppet) for _ in range(3)]
    late = await dead_job(http, puppet, JobError(FailureCode.TIMEOUT, "too slow"))
    assert await dead(http) == [late, *reversed(broken)]
    assert await dead(http, code="timeout", model=MODEL) == [late]
    assert await dead(http, model="another") == []
    first = (await http.get("/v1/dead", params={"limit": 3})).json()
    assert await dead(http, limit=3, after=first["next_cursor"]) == [broken[0]]

    done = (await http.post("/v1/dead/retry", json={"code": "engine_error", "limit": 2})).json()
    assert [row["id"] for row in done["data"]] == [broken[2], broken[1]]
    assert done["has_more"]
    assert await dead(http) == [late, broken[0]]
    ghost = new_id()
    named = (await http.post("/v1/dead/retry", json={"ids": [late, broken[2], ghost]})).json()
    assert [row["error"] and row["error"]["code"] for row in named["data"]] == [None, None, "job_not_found"]
    assert named["data"][1]["retried_as"] == done["data"][0]["retried_as"]
    assert await puppet.waiting() == 3
    rest = (await http.post("/v1/dead/retry", json={})).json()
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == ([broken[0]], False)


@pytest.mark.parametrize("named", [True, False])
async def test_a_damaged_record_does_not_stop_the_repetition_of_the_others(
    http: httpx.AsyncClient, puppet: Puppet, *, named: bool
) -> None:
    first, damaged, last = [await dead_job(http, puppet) for _ in range(3)]
    record = puppet.store.keys("job", damaged)
    kept, life_ms = await puppet.store.client.dump(record), await puppet.store.client.pttl(record)
    await puppet.store.client.delete(record)
    await puppet.store.client.set(record, "not what it was")
    got = await http.post("/v1/dead/retry", json={"ids": [first, damaged, last]} if named else {})
    assert got.status_code == 200, got.text
    codes = {row["id"]: row["error"] and row["error"]["code"] for row in got.json()["data"]}
    assert codes == {first: None, last: None} | ({damaged: "internal_error"} if named else {})
    await puppet.store.client.delete(record)
    await puppet.store.client.restore(record, life_ms, kept)


async def test_large_requests_are_repeated_two_at_a_time(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """While Redis holds back writes, two retries have their request in memory; the others have only asked for its size."""
    size = 1024 * 1024
    puppet = Puppet(store)
    await puppet.live()
    dead = []
    for _ in range(8):
        spec = JobSpec(new_id(), "/v1/completions", MODEL, json.dumps({"prompt": "x" * size}).encode())
        await store.accept(spec)
        await puppet.fail(await puppet.take(), BROKEN)
        dead.append(spec.id)

    async def told(section: str, name: str) -> Any:
        return (await store.client.info(section)).get(name)

    with ApiServer(broker_settings) as api:
        async with api.client() as http:
            await store.client.config_resetstat()
            await store.client.client_pause(20_000, all=False)
            asked = [asyncio.create_task(http.post(f"/v1/jobs/{job_id}/retry")) for job_id in dead]

            async def all_asked() -> bool:
                return ((await told("commandstats", "cmdstat_hstrlen")) or {"calls": 0})["calls"] == len(dead)

            async def sent() -> int:
                return int(await told("stats", "total_net_output_bytes"))

            async def two_read() -> bool:
                return await sent() > 2 * size

            try:
                await eventually(all_asked)
                await eventually(two_read)
                for _ in range(10):  # round trips in which the others would read theirs
                    await http.get(f"/v1/jobs/{new_id()}")
                assert await sent() < 3 * size
            finally:
                await store.client.client_unpause()
            await asyncio.gather(*asked)
            again = [await http.post(f"/v1/jobs/{job_id}/retry") for job_id in dead]
            assert {got.status_code for got in again} == {202}
    for _ in dead:
        assert len((await puppet.take()).body) > size


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ids": []}, "ids"),
        ({"ids": ["x"], "code": "timeout"}, None),
        ({"code": "no such code"}, "code"),
        ({"limit": 0}, "limit"),
        ({"what": 1}, "what"),
    ],
)
async def test_bad_bulk_requests_are_named(
    http: httpx.AsyncClient, body: dict[str, Any], param: str | None
) -> None:
    got = await http.post("/v1/dead/retry", json=body)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


async def test_partial_output_is_shown(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job = await submit(http)
    claim = await puppet.take()
    await puppet.store.finish(
        claim, puppet.name, JobState.CANCELLED, partial=b'{"half": 1.0}', usage=Usage(3, 2, 5)
    )
    got = (await http.get(f"/v1/jobs/{job['id']}")).json()
    assert (got["state"], got["partial"], got["result"]) == ("cancelled", {"half": 1.0}, None)
    assert got["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("field", ["timeout_s", "queue_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, "soon", 1e12])
async def test_bad_limits_are_named(
    http: httpx.AsyncClient, puppet: Puppet, field: str, value: object
) -> None:
    got = await http.post("/v1/jobs", json={"input": INPUT, field: value})
    assert (got.status_code, got.json()["error"]["param"]) == (400, field)
    assert await puppet.waiting() == 0


async def test_workers_are_listed_and_drained(http: httpx.AsyncClient, puppet: Puppet) -> None:
    (worker,) = (await http.get("/v1/workers")).json()["data"]
    assert (worker["id"], worker["name"], worker["state"], worker["models"]) == (
        puppet.name,
        puppet.name,
        "ready",
        [MODEL],
    )
    got = await http.post(f"/v1/workers/{puppet.name}/drain", json={"timeout_s": 4})
    assert (got.status_code, [w["state"] for w in got.json()["data"]]) == (202, ["draining"])
    assert {order: float(limit) for order, limit in (await puppet.beat()).items()} == {"drain": 4.0}
    assert (await http.post(f"/v1/workers/{puppet.name}/drain")).status_code == 202
    assert await puppet.beat() == {"drain": ""}
    nobody = await http.post("/v1/workers/nobody/drain")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "worker_not_found")
    bad = await http.post(f"/v1/workers/{puppet.name}/drain", json={"timeout_s": -1})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "timeout_s")
