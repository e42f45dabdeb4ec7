"""The queue over HTTP: what is refused and when to come again, pausing, purging, moving, estimates, coalescing, ageing."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from broker.claims import Claim
from broker.jobs import JobStore
from broker.registry import Runs
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.model import JobSpec
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
FIXED = BODY | {"temperature": 0}


def sdk(api: ApiServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0, timeout=20)


async def refusal(api: ApiServer, *, stream: bool = False) -> openai.APIStatusError:
    """Call the chat endpoint as the openai SDK does, and return its error; its Retry-After must be one the SDK heeds."""
    async with sdk(api) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**BODY, stream=stream)
    error = refused.value
    wait = error.response.headers["retry-after"]
    assert wait == str(int(wait))
    assert 1 <= int(wait) <= 120
    assert set(error.response.json()["error"]) == {"message", "type", "param", "code"}
    return error


async def submit(http: httpx.AsyncClient, status: int = 202, **fields: Any) -> dict[str, Any]:
    got = await http.post("/v1/jobs", json={"input": BODY, **fields})
    assert got.status_code == status, got.text
    return got.json()


async def look(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    return (await http.get(f"/v1/jobs/{job_id}")).json()


async def pool(http: httpx.AsyncClient) -> dict[str, Any]:
    (only,) = (await http.get("/v1/queues")).json()["data"]
    return only


async def measured(puppet: Puppet, run_ms: float, bulk_run_ms: float | None = None) -> None:
    """Let the worker, which has one slot, report how long runs took."""
    await puppet.store.heartbeat(
        puppet.name,
        info={"name": puppet.name, "pool": puppet.pool, "models": [MODEL], "capacity": 1},
        run=Runs(run_ms, 1),
        bulk_run=None if bulk_run_ms is None else Runs(bulk_run_ms, 1),
    )


async def occupy(puppet: Puppet) -> Claim:
    """Take the worker's one slot with a job of the lane ``bulk``."""
    await puppet.store.accept(JobSpec(new_id(), CHAT, MODEL, b"{}", lane=Lane.BULK))
    return await puppet.take()


# ---- refusals -----------------------------------------------------------------------------------------------------


async def test_reject_mode_on_an_idle_gpu_takes_what_fits(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    await puppet.live(capacity=3)
    with ApiServer(broker_settings, queue_mode="reject") as api:
        async with api.client() as http:
            asked = asyncio.create_task(http.post(CHAT, json=BODY))
            claim = await puppet.take()
            for priority in ("normal", "low"):
                await submit(http, priority=priority)
            await submit(http, status=429)
            await submit(http, priority="bulk")
            for stream in (False, True):
                error = await refusal(api, stream=stream)
                assert isinstance(error, openai.RateLimitError)
                assert (error.code, error.type) == ("gpu_busy", "rate_limit_error")
                wait = error.response.headers["retry-after"]
                assert f"GPU busy: 3 jobs are running or about to run; retry in {wait} s" in error.message
            await puppet.succeed(claim)
            assert (await asked).status_code == 200
            await submit(http)
            await submit(http, status=429)


async def test_max_active_counts_over_all_api_processes(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    await puppet.live(capacity=100)
    settings = {"queue_mode": "reject", "max_active": 2}
    with ApiServer(broker_settings, **settings) as one, ApiServer(broker_settings, **settings) as other:
        async with one.client() as first, other.client() as second:
            await submit(first)
            await submit(second)
            for http in (first, second):
                assert (await submit(http, status=429))["error"]["code"] == "gpu_busy"
            assert (await pool(first))["max_active"] == 2


async def test_queue_max_counts_over_all_api_processes_and_per_lane(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    await measured(puppet, 30_000, 1_000_000)
    await occupy(puppet)
    with ApiServer(broker_settings, queue_max=2) as one, ApiServer(broker_settings, queue_max=2) as other:
        async with one.client() as first, other.client() as second:
            for http in (first, second):
                await submit(http)
                await submit(http, priority="bulk")
            for http in (first, second):
                for priority, wait in (("normal", "30"), ("bulk", "120")):
                    got = await http.post("/v1/jobs", json={"input": BODY, "priority": priority})
                    assert (got.status_code, got.json()["error"]["code"]) == (429, "queue_full")
                    assert (
                        got.json()["error"]["message"] == f"Queue full: 2 jobs are waiting; retry in {wait} s"
                    )
                    assert got.headers["retry-after"] == wait  # until an eighth of the queue has started
            await submit(second, priority="high")
            waiting = [asyncio.create_task(first.post(CHAT, json=BODY)) for _ in range(2)]
            await eventually(puppet_waits(puppet, 7))
            error = await refusal(other)
            assert (error.status_code, error.code) == (429, "queue_full")
            for _ in range(2):
                await puppet.succeed(await puppet.take())
            assert {(await one_answer).status_code for one_answer in waiting} == {200}


def puppet_waits(puppet: Puppet, count: int) -> Any:
    async def waits() -> bool:
        return await puppet.waiting() == count

    return waits


async def test_a_start_that_comes_too_late(broker_settings: BrokerSettings, puppet: Puppet) -> None:
    await measured(puppet, 7_000)
    busy = await occupy(puppet)
    with ApiServer(broker_settings, queue_timeout_s=0.2, reap_interval_s=0.05) as api:
        for stream in (False, True):
            error = await refusal(api, stream=stream)
            assert (error.status_code, error.code, error.type) == (503, "queue_timeout", "server_error")
            assert "Queue timeout" in error.message
            assert "retry in 7 s" in error.message
            assert (
                error.response.headers["retry-after"] == "7"
            )  # the slot is free in 7 s, and nobody is before
            assert error.response.headers["x-penstock-job-id"].startswith("job_")
        assert await puppet.waiting() == 0
        await puppet.succeed(busy)
        async with sdk(api) as client:
            claims: list[Claim] = []
            while not claims:  # on a busy machine, too, one call is claimed in time
                asked = asyncio.create_task(client.chat.completions.create(**BODY, stream=True))
                while not (claims or asked.done()):
                    claims = await puppet.store.claim(puppet.name)
            (claim,) = claims  # what was started in time may take its time
            async with api.client() as http:
                for _ in range(3):
                    await puppet.beat()
                    await asyncio.wait({asked}, timeout=0.15)
                assert (await look(http, claim.id))["state"] == "running"
            await puppet.succeed(claim)
            assert await asked


async def test_without_a_worker(broker_settings: BrokerSettings, store: JobStore, puppet: Puppet) -> None:
    await store.bury(puppet.name)
    await store.reap()
    with ApiServer(broker_settings) as api:
        for stream in (False, True):
            error = await refusal(api, stream=stream)
            assert (error.status_code, error.code) == (503, "no_worker")


# ---- estimates ----------------------------------------------------------------------------------------------------


async def test_positions_and_estimates_go_down(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await puppet.live(capacity=1)
    ids = [(await submit(http))["id"] for _ in range(6)]
    run_s = None
    for taken, job_id in enumerate(ids[:-1], 1):
        claim = await puppet.take()
        assert claim.id == job_id
        told = [await look(http, waiting) for waiting in ids[taken:]]
        assert [job["position"] for job in told] == list(range(len(told)))
        etas = [job["eta_s"] for job in told]
        run_s = (await pool(http))["mean_run_s"]
        if taken == 1:  # no run has ended
            assert (run_s, etas) == (None, [None] * len(told))
        else:
            assert etas == pytest.approx([(place + 1) * run_s for place in range(len(told))], abs=0.002)
        await puppet.succeed(claim)
        await measured(puppet, 1000 + 1000 * taken)
    assert (await look(http, ids[-1]))["eta_s"] == 0  # its slot is free
    listed = (await http.get("/v1/jobs", params={"state": "queued"})).json()["data"]
    assert [(job["id"], job["position"]) for job in listed] == [(ids[-1], 0)]
    assert (await look(http, ids[0]))["position"] is None
    view = await pool(http)
    assert (view["slots"], view["running"], view["queued"]) == (1, 0, 1)
    assert 2 < view["mean_run_s"] < 3  # nearer to the first than to the last
    assert view["mean_bulk_run_s"] is None


@pytest.mark.parametrize(("field", "estimate"), [("expires_in_s", "60.0"), ("queue_timeout_s", "50.0")])
async def test_a_limit_that_cannot_be_kept(
    broker_settings: BrokerSettings, puppet: Puppet, field: str, estimate: str
) -> None:
    await measured(puppet, 10_000)
    await occupy(puppet)
    reason = f"with the jobs now queued it would take about {estimate} s"
    message = f"{field} cannot be met: {reason}; raise {field} or retry later"
    with ApiServer(broker_settings) as api:
        async with api.client() as http:
            for _ in range(4):
                assert (await submit(http))["warnings"] == []
            (warning,) = (await submit(http, **{field: 20}))["warnings"]
            assert warning == {
                "code": "infeasible_deadline",
                "message": message,
                "param": field,
                "estimate_s": float(estimate),
            }
            assert (await submit(http, **{field: 600}))["warnings"] == []
    with ApiServer(broker_settings, infeasible_deadline="refuse") as api:
        async with api.client() as http:
            error = (await submit(http, status=400, **{field: 1}))["error"]
            assert (error["code"], error["param"], error["type"]) == (
                "infeasible_deadline",
                field,
                "invalid_request_error",
            )
            await submit(http, **{field: 600})


async def test_a_synchronous_call_that_would_start_too_late_is_told_at_once(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    await measured(puppet, 40_000)
    await occupy(puppet)
    with ApiServer(broker_settings, infeasible_deadline="refuse", queue_timeout_s=20) as api:
        error = await refusal(api)
        assert (error.status_code, error.code) == (503, "queue_timeout")
        assert error.response.headers["retry-after"] == "40"
    assert await puppet.waiting() == 0


# ---- steering -----------------------------------------------------------------------------------------------------


async def test_a_paused_pool_accepts_waits_and_goes_on(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    with ApiServer(broker_settings, queue_timeout_s=0.3, reap_interval_s=0.05) as api:
        async with api.client() as http:
            running = await submit(http)
            claim = await puppet.take()
            before = await submit(http)
            for _ in range(2):
                got = await http.post("/v1/queues/default/pause")
                assert (got.status_code, got.json()["paused"]) == (200, True)
            after = await submit(http)
            assert await puppet.store.claim(puppet.name, room=8) == []
            for stream in (False, True):
                error = await refusal(api, stream=stream)
                assert (error.status_code, error.code) == (503, "queue_timeout")
            await puppet.succeed(claim)
            assert (await look(http, running["id"]))["state"] == "succeeded"
            assert [(await look(http, job["id"]))["position"] for job in (before, after)] == [0, 1]
            assert (await pool(http))["queued"] == 2
            got = await http.post("/v1/queues/default/resume")
            assert (got.status_code, got.json()["paused"]) == (200, False)
            for job in (before, after):
                claim = await puppet.take()
                assert claim.id == job["id"]
                await puppet.succeed(claim)


async def test_purging_a_lane(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await submit(http, priority="low")
    claim = await puppet.take()
    ids = [(await submit(http, priority="low"))["id"] for _ in range(40)]
    other = await submit(http)
    asked = asyncio.create_task(http.post(CHAT, json=BODY))

    async def realtime() -> bool:
        return (await pool(http))["lanes"][0]["queued"] == 1

    await eventually(realtime)
    got = await http.delete("/v1/queues/default/low")
    assert got.json() == {"object": "purged", "pool": "default", "lane": "low", "cancelled": 40}
    assert {(await look(http, job_id))["state"] for job_id in ids} == {"cancelled"}
    assert (await look(http, claim.id))["state"] == "running"
    assert (await http.delete("/v1/queues/default/realtime")).json()["cancelled"] == 1
    assert ((await asked).status_code, (await asked).json()["error"]["code"]) == (409, "job_cancelled")
    assert (await http.delete("/v1/queues/default/low")).json()["cancelled"] == 0
    assert [lane["queued"] for lane in (await pool(http))["lanes"]] == [0, 0, 1, 0, 0]
    assert (await puppet.take()).id == other["id"]


async def test_what_there_is_not_cannot_be_steered(http: httpx.AsyncClient, puppet: Puppet) -> None:
    for method, path in (("POST", "/v1/queues/none/pause"), ("DELETE", "/v1/queues/none/low")):
        error = (await http.request(method, path)).json()["error"]
        assert (error["code"], error["param"]) == ("pool_not_found", "pool")
        assert "default" in error["message"]
    assert (await http.delete("/v1/queues/default/fast")).status_code == 400
    assert (await http.post("/v1/queues/default/stop")).status_code == 400
    assert (await http.get("/v1/queues/default/pause")).status_code == 405


async def test_moving_a_queued_job(http: httpx.AsyncClient, puppet: Puppet) -> None:
    ids = [(await submit(http))["id"] for _ in range(5)]

    async def change(job_id: str, status: int = 200, **fields: Any) -> dict[str, Any]:
        got = await http.patch(f"/v1/jobs/{job_id}", json=fields)
        assert got.status_code == status, got.text
        return got.json()

    raised = await change(ids[4], priority="high")
    assert (raised["priority"], raised["position"]) == ("high", 0)
    assert (await change(ids[3], top=True))["position"] == 1
    lowered = await change(ids[0], priority="low", top=True)
    assert (lowered["priority"], lowered["position"]) == ("low", 4)
    claims = [await puppet.take() for _ in range(5)]
    assert [claim.id for claim in claims] == [ids[4], ids[3], ids[1], ids[2], ids[0]]
    assert (await change(ids[0], 409, priority="high"))["error"]["code"] == "job_not_queued"
    await puppet.succeed(claims[4])
    assert "is succeeded" in (await change(ids[0], 409, top=True))["error"]["message"]
    assert (await change(new_id(), 404, top=True))["error"]["code"] == "job_not_found"
    waits = (await submit(http))["id"]
    for wrong in ({}, {"priority": None}, {"top": False}, {"priority": "realtime"}, {"lane": "low"}):
        assert (await change(waits, 400, **wrong))["error"]["type"] == "invalid_request_error"
    asked = asyncio.create_task(http.post(CHAT, json=BODY))

    async def synchronous() -> str | None:
        page = (await http.get("/v1/jobs", params={"state": "queued"})).json()["data"]
        return next((job["id"] for job in page if job["priority"] == "realtime"), None)

    found = await eventually(synchronous)
    assert "synchronous" in (await change(found, 400, priority="low"))["error"]["message"]
    await puppet.succeed(await puppet.take())
    assert (await asked).status_code == 200


async def test_who_waits_long_goes_up_a_lane(broker_settings: BrokerSettings, puppet: Puppet) -> None:
    with ApiServer(broker_settings, ageing_s=0.2, reap_interval_s=0.05) as api:
        async with api.client() as http:
            low, bulk = [(await submit(http, priority=lane))["id"] for lane in ("low", "bulk")]

            async def arrived() -> bool:
                return (await look(http, low))["priority"] == "high"

            await eventually(arrived)
            assert (await look(http, bulk))["priority"] == "bulk"
            assert (await puppet.take()).id == low


# ---- coalescing ---------------------------------------------------------------------------------------------------


async def test_identical_jobs_run_once(http: httpx.AsyncClient, puppet: Puppet) -> None:
    same: dict[str, Any] = {"input": FIXED, "coalesce": True}
    leader = await submit(http, **same)
    follower = await submit(http, **same)
    spaced = await submit(http, input=dict(reversed(FIXED.items())), coalesce=True)
    alone = await submit(http, input=FIXED)
    other = await submit(http, input=FIXED | {"max_tokens": 5}, coalesce=True)
    followers = [await look(http, job["id"]) for job in (follower, spaced)]
    assert [job["coalesced_with"] for job in followers] == [leader["id"]] * 2
    claims = [await puppet.take() for _ in range(3)]
    assert [claim.id for claim in claims] == [leader["id"], alone["id"], other["id"]]
    await puppet.succeed(claims[0], b'{"once": 1}')
    for job in (leader, follower, spaced):
        ended = await look(http, job["id"])
        assert (ended["state"], ended["result"], ended["usage"]["total_tokens"]) == (
            "succeeded",
            {"once": 1},
            5,
        )
    for claim in claims[1:]:
        await puppet.succeed(claim)
    assert await puppet.waiting() == 0


async def test_identical_calls_run_once_where_they_ask_for_it(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    def call(coalesce: str | None) -> asyncio.Task[httpx.Response]:
        headers = {} if coalesce is None else {"x-penstock-coalesce": coalesce}
        return asyncio.create_task(http.post(CHAT, json=FIXED, headers=headers))

    asked = [call("1"), call("true"), call("1")]

    async def all_there() -> bool:
        page = (await http.get("/v1/jobs", params={"state": "queued"})).json()["data"]
        return len(page) == 3

    await eventually(all_there)
    single = call(None)
    await eventually(puppet_waits(puppet, 4))
    once, alone = await puppet.store.claim(puppet.name, room=8)
    await puppet.succeed(once, b'{"once": 1}')
    answers = [await task for task in asked]
    assert {(got.status_code, got.content) for got in answers} == {(200, b'{"once": 1}')}
    assert len({got.headers["x-penstock-job-id"] for got in answers}) == 3
    await puppet.succeed(alone, b'{"alone": 1}')
    assert (await single).json() == {"alone": 1}


async def test_a_caller_that_hangs_up_leaves_the_others_their_answer(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    headers = {"x-penstock-coalesce": "1"}
    first = asyncio.create_task(http.post(CHAT, json=FIXED, headers=headers))
    await eventually(puppet_waits(puppet, 1))
    second = await submit(http, input=FIXED, coalesce=True, priority="high")
    assert (await look(http, second["id"]))["coalesced_with"] is not None
    first.cancel()

    async def inherits() -> bool:
        return (await look(http, second["id"]))["coalesced_with"] is None

    await eventually(inherits)
    claim = await puppet.take()
    assert claim.id == second["id"]
    await puppet.succeed(claim)
    assert (await look(http, second["id"]))["state"] == "succeeded"


async def test_what_may_differ_is_not_coalesced(http: httpx.AsyncClient, puppet: Puppet) -> None:
    wrong = ({"input": BODY}, {"input": BODY | {"temperature": 1}}, {"input": FIXED | {"stream": True}})
    for fields in (*wrong, {"input": FIXED, "stream": True}):
        error = (await submit(http, status=400, coalesce=True, **fields))["error"]
        assert (error["param"], error["type"]) == ("coalesce", "invalid_request_error")
    for body in (BODY, FIXED | {"stream": True}):
        got = await http.post(CHAT, json=body, headers={"x-penstock-coalesce": "1"})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "coalesce")
    assert await puppet.waiting() == 0
