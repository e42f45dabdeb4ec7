"""The jobs API against a real api, a real Valkey and a worker on strings."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from broker.jobs import JobStore
from jobs.failures import FailureCode
from jobs.model import JobError, Usage
from jobs.states import JobState
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

INPUT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def submit(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    got = await http.post("/v1/jobs", json={"input": INPUT, **fields})
    assert got.status_code == 202, got.text
    return got.json()


async def test_a_job_from_submission_to_result(http: httpx.AsyncClient, puppet: Puppet) -> None:
    before = time.time()
    got = await http.post("/v1/jobs", json={"input": INPUT, "metadata": {"k": "v"}, "expires_in_s": 60})
    job = got.json()
    assert (got.status_code, got.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert (job["state"], job["priority"], job["position"], job["attempt"]) == ("queued", "normal", 0, 0)
    assert job["metadata"] == {"k": "v"}
    assert abs(job["created_at"] - before) < 5
    assert job["expires_at"] == pytest.approx(job["created_at"] + 60)
    queued = (await http.get(job["links"]["status_url"])).json()
    assert queued == job  # what was told at submission is what is read back

    claim = await puppet.take()
    running = (await http.get(f"/v1/jobs/{job['id']}")).json()
    assert (running["state"], running["worker"], running["position"]) == ("running", puppet.name, None)
    early = await http.get(job["links"]["result_url"])
    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_not_finished")

    await puppet.succeed(claim, b'{"answer": 1.0}', usage=Usage(3, 2, 5))
    done = (await http.get(f"/v1/jobs/{job['id']}")).json()
    assert (done["state"], done["result"], done["usage"]["total_tokens"]) == ("succeeded", {"answer": 1.0}, 5)
    assert done["timings"]["total_ms"] >= done["timings"]["queue_ms"] >= 0
    result = await http.get(job["links"]["result_url"])
    assert (result.status_code, result.content) == (200, b'{"answer": 1.0}')
    assert result.headers["x-penstock-job-id"] == job["id"]
    assert "x-penstock-total-ms" in result.headers


async def test_the_input_stays_as_it_was_written(http: httpx.AsyncClient, puppet: Puppet) -> None:
    inner = (
        b'{ "model": "puppet", "messages": [{"role":"user","content":"\xc3\xa9"}],'
        b' "x": 1.0e2, "seed": 123456789012345678 }'
    )
    await http.post("/v1/jobs", content=b'{"priority":"low", "input": ' + inner + b"}")
    claim = await puppet.take()
    assert (claim.body, claim.lane) == (inner, "low")


async def test_the_model_is_put_into_the_input(http: httpx.AsyncClient, puppet: Puppet) -> None:
    without = {"messages": INPUT["messages"], "model": None}
    got = await http.post("/v1/jobs", json={"model": MODEL, "input": without})
    assert got.json()["model"] == MODEL
    claim = await puppet.take()
    assert json.loads(claim.body) == INPUT


@pytest.mark.parametrize(("fields", "stream"), [({}, True), ({"stream": False}, False)])
async def test_stream_defaults_to_the_inputs(
    http: httpx.AsyncClient, puppet: Puppet, fields: dict[str, Any], stream: bool
) -> None:
    job = (await http.post("/v1/jobs", json={"input": INPUT | {"stream": True}, **fields})).json()
    assert job["stream"] is stream


@pytest.mark.parametrize("asked", ["job", "input"])
async def test_an_embedding_does_not_stream(
    http: httpx.AsyncClient, store: JobStore, puppet: Puppet, asked: str
) -> None:
    await Puppet(store, "embeds", "vectors").live("e", facts=FACTS | {"endpoints": ["/v1/embeddings"]})
    body: dict[str, Any] = {"endpoint": "/v1/embeddings", "input": {"model": "e", "input": "x"}}
    (body if asked == "job" else body["input"])["stream"] = True
    job = await eventually(lambda: submitted(http, body))
    assert job["stream"] is False


async def submitted(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any] | None:
    """Submit a job; None: its model is not known yet."""
    got = await http.post("/v1/jobs", json=body)
    return got.json() if got.status_code == 202 else None


async def test_waiting_for_the_end(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = asyncio.create_task(http.post("/v1/jobs", json={"input": INPUT}, headers={"prefer": "wait=10"}))
    await puppet.succeed(await puppet.take(), b'{"a":1}')
    got = await asked
    assert (got.status_code, got.headers["preference-applied"]) == (200, "wait=10")
    assert got.json()["result"] == {"a": 1}

    queued = await http.post("/v1/jobs?wait=0.05", json={"input": INPUT})
    assert (queued.status_code, queued.json()["state"]) == (202, "queued")
    job_id = queued.json()["id"]
    asked = asyncio.create_task(http.get(f"/v1/jobs/{job_id}?wait=10"))
    claim = await puppet.take()

    async def watched() -> bool:
        return bool(await puppet.store.client.hget(puppet.store.keys("job", job_id), "sinks"))

    await eventually(watched)
    await puppet.fail(claim, JobError(FailureCode.ENGINE_ERROR, "broken", "x"))
    got = await asked
    assert (got.status_code, got.json()["state"]) == (200, "failed")
    assert got.json()["error"] == {"code": "engine_error", "message": "broken", "param": "x"}
    assert (await http.get(f"/v1/jobs/{job_id}?wait=10")).json()["state"] == "failed"  # at once


async def test_an_idempotency_key_gives_the_same_job(http: httpx.AsyncClient, puppet: Puppet) -> None:
    headers = {"idempotency-key": "k" * 255}
    first = await http.post("/v1/jobs", json={"input": INPUT}, headers=headers)
    again = await http.post("/v1/jobs", json={"input": INPUT}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["location"] == first.headers["location"]
    other = await http.post("/v1/jobs", json={"input": INPUT, "priority": "low"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert await puppet.waiting() == 1
    asked = asyncio.create_task(http.post("/v1/jobs?wait=10", json={"input": INPUT}, headers=headers))
    await puppet.succeed(await puppet.take(), b'{"a":1}')
    assert (await asked).json()["result"] == {"a": 1}
    too_long = await http.post("/v1/jobs", json={"input": INPUT}, headers={"idempotency-key": "k" * 256})
    assert too_long.json()["error"]["param"] == "Idempotency-Key"


async def test_cancelling(http: httpx.AsyncClient, puppet: Puppet) -> None:
    queued = await submit(http)
    gone = await http.post(queued["links"]["cancel_url"])
    assert (gone.status_code, gone.json()["state"]) == (200, "cancelled")
    assert await puppet.waiting() == 0

    running = await submit(http)
    claim = await puppet.take()
    told = (await http.post(running["links"]["cancel_url"])).json()
    assert (told["state"], told["cancel_requested"]) == ("running", True)
    await puppet.store.finish(claim, puppet.name, JobState.CANCELLED)
    result = await http.get(running["links"]["result_url"])
    assert (result.status_code, result.json()["error"]["code"]) == (409, "job_cancelled")
    assert (await http.post(running["links"]["cancel_url"])).json()["state"] == "cancelled"


async def test_listing_page_by_page(http: httpx.AsyncClient, puppet: Puppet) -> None:
    ids = [(await submit(http))["id"] for _ in range(7)]
    for order, expected in (("desc", ids[::-1]), ("asc", ids)):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            params = {"limit": "3", "order": order, **after}
            page = (await http.get("/v1/jobs", params=params)).json()
            found += [job["id"] for job in page["data"]]
            assert page["has_more"] == (page["next_cursor"] is not None)
            if not page["has_more"]:
                break
            assert len(page["data"]) == 3
            after = {"after": page["next_cursor"]}
        assert found == expected

    await puppet.succeed(await puppet.take())
    queued = (await http.get("/v1/jobs", params={"state": "queued", "model": MODEL})).json()["data"]
    assert len(queued) == 6
    assert (await http.get("/v1/jobs", params={"created_after": time.time() + 60})).json()["data"] == []
    assert (await http.get("/v1/jobs", params={"model": "other"})).json()["data"] == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"state": "done"}, "state"),
        ({"order": "up"}, "order"),
        ({"after": "nonsense"}, "after"),
        ({"after": "é"}, "after"),
        ({"created_after": "nan"}, "created_after"),
        ({"created_after": "1e308"}, "created_after"),
        ({"created_before": "-1e308"}, "created_before"),
    ],
)
async def test_a_wrong_list_query_is_named(
    http: httpx.AsyncClient, params: dict[str, str], param: str
) -> None:
    got = await http.get("/v1/jobs", params=params)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


async def test_a_job_that_is_not_there(http: httpx.AsyncClient, puppet: Puppet) -> None:
    for job_id in (new_id(), "nonsense"):
        for method, path in (
            ("GET", ""),
            ("GET", "?wait=1"),
            ("POST", "/cancel"),
            ("GET", "/result"),
            ("GET", "/events"),
        ):
            got = await http.request(method, f"/v1/jobs/{job_id}{path}")
            assert (got.status_code, got.json()["error"]["code"]) == (404, "job_not_found"), path
