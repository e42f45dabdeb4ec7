"""Dead jobs, retries and workers with both clients over a real socket, and the requests and pages without one."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import AsyncPenstock, errors
from penstock._core import flows
from penstock._core.replies import Reply
from penstock._core.retry import RetryPolicy
from penstock.models import Job, Page
from tests.unit.penstock.double import ID, again, answer, error, job, worker


def test_retry_asks_with_a_key_and_returns_the_new_job(server, client):
    server.faults.append((503, {}, error("redis_unavailable")))
    new = client.jobs.retry(ID)
    assert (new.id, new.retry_of, new.state) == (again(ID), ID, "queued")
    first, second = server.asked(f"/v1/jobs/{ID}/retry")
    assert (first.method, first.body) == ("POST", b"")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] != ""
    client.jobs.retry(ID, idempotency_key="mine")
    assert server.seen[-1].headers["idempotency-key"] == "mine"


def test_a_job_that_is_not_over_cannot_be_run_again(server, client):
    server.faults.append((409, {}, error("job_not_finished")))
    with pytest.raises(errors.ConflictError) as caught:
        client.jobs.retry(ID)
    assert caught.value.code == "job_not_finished"
    assert len(server.seen) == 1


def test_the_limits_and_the_kin_of_a_job_are_its_fields(server, client):
    server.job = job(
        state="failed",
        timeout_s=2.5,
        queue_timeout_s=30,
        retry_of="job_a",
        retried_as="job_b",
        partial=answer("as far as"),
        error={"code": "timeout", "message": "too slow"},
    )
    with pytest.raises(errors.JobFailedError, match="timeout: too slow") as caught:
        client.wait(ID)
    got = caught.value.job
    assert (got.timeout_s, got.queue_timeout_s, got.retry_of, got.retried_as) == (2.5, 30, "job_a", "job_b")
    assert (got.partial_text, got.text, got.result) == ("as far as", "", None)
    server.job = job()
    assert client.jobs.get(ID).partial_text == ""


def test_dead_jobs_are_listed_page_by_page(server, client):
    server.dead = [job(id=f"job_{n}", state="failed") for n in range(5)]
    found = [item.id for item in client.dead.list(code="timeout", model="m", page_size=2)]
    assert found == [f"job_{n}" for n in range(5)]
    assert [seen.query["limit"] for seen in server.seen] == ["2"] * 3
    assert {(seen.query["code"], seen.query["model"]) for seen in server.seen} == {("timeout", "m")}
    assert len(list(client.dead.list(limit=3))) == 3


def test_dead_jobs_that_leave_the_list_meanwhile_hide_no_others(server, client):
    server.dead = [job(id=f"job_{n}", state="failed") for n in range(7)]
    seen = []
    for item in client.dead.list(page_size=2):
        seen.append(item.id)
        client.dead.retry([item.id])
    assert seen == [f"job_{n}" for n in range(7)]
    assert server.dead == []


def test_bulk_retry_by_name_and_by_filter(server, client):
    server.dead = [job(id=f"job_{n}", state="failed") for n in range(3)]
    server.refused = {"job_1"}
    report = client.dead.retry(["job_0", "job_1"])
    assert [(one.id, one.retried_as) for one in report.data] == [("job_0", again("job_0")), ("job_1", None)]
    assert report.data[1].error.code == "queue_full"
    assert report.has_more
    client.dead.retry(code="timeout", model="m", limit=7)
    client.dead.retry()
    sent = [json.loads(seen.body) for seen in server.asked("/v1/dead/retry")]
    assert sent == [{"ids": ["job_0", "job_1"]}, {"code": "timeout", "model": "m", "limit": 7}, {}]


@pytest.mark.parametrize(
    ("ids", "filters"),
    [
        ([], {}),
        ([" "], {}),
        (["job_1"], {"code": "timeout"}),
        (["job_1"], {"limit": 5}),
        ([f"job_{n}" for n in range(1001)], {}),
        (None, {"limit": 0}),
        (None, {"limit": 1001}),
    ],
)
def test_a_bulk_retry_that_says_too_little_or_too_much_is_not_sent(server, client, ids, filters):
    with pytest.raises(ValueError, match=r"give|limit"):
        client.dead.retry(ids, **filters)
    assert server.seen == []


def test_one_id_is_one_id_and_not_its_letters(server, client):
    assert [one.id for one in client.dead.retry("job_1").data] == ["job_1"]


def test_workers_and_draining_one(server, client):
    server.workers = [worker(), worker(id="gpu0@host-8-ffffffff", name="gpu0@host", kv_cache_usage=None)]
    first, second = client.workers.list()
    assert (first.id, first.name, first.state) == ("cpu@host-7-0a1b2c3d", "cpu@host", "ready")
    assert (first.running, first.capacity, first.kv_cache_usage, first.models) == (2, 8, 0.25, ("m",))
    assert (second.kv_cache_usage, second.model_extra["a_field_of_the_future"]) == (None, 1)
    (told,) = client.workers.drain("cpu@host", timeout_s=2.5)
    assert (told.id, told.state) == (first.id, "draining")
    (seen,) = server.asked("/v1/workers/cpu@host/drain")
    assert (seen.method, json.loads(seen.body)) == ("POST", {"timeout_s": 2.5})
    assert client.workers.drain(second.id)[0].id == second.id
    assert json.loads(server.seen[-1].body) == {}
    with pytest.raises(errors.NotFoundError) as caught:
        client.workers.drain("nobody@nowhere")
    assert caught.value.code == "worker_not_found"


@pytest.mark.parametrize(("name", "time"), [("", None), (" ", None), ("w", -1), ("w", float("inf"))])
def test_a_drain_of_nobody_or_for_no_time_is_not_sent(server, client, name, time):
    with pytest.raises(ValueError, match=r"empty|timeout_s"):
        client.workers.drain(name, time)
    assert server.seen == []


def test_a_name_cannot_leave_its_path(server, client):
    with pytest.raises(errors.NotFoundError):
        client.workers.drain("../jobs/x?y#z")
    assert server.seen[-1].raw_path == "/v1/workers/..%2Fjobs%2Fx%3Fy%23z/drain"


@pytest.mark.asyncio
async def test_the_async_client_does_the_same(server):
    server.dead = [job(id=f"job_{n}", state="failed") for n in range(3)]
    server.workers = [worker()]
    async with AsyncPenstock(server.url) as client:
        assert (await client.jobs.retry(ID)).retry_of == ID
        assert [item.id async for item in client.dead.list(page_size=2)] == ["job_0", "job_1", "job_2"]
        assert (await client.dead.retry(["job_2"])).data[0].retried_as == again("job_2")
        assert (await client.dead.retry(limit=1)).has_more
        assert [one.name for one in await client.workers.list()] == ["cpu@host"]
        assert (await client.workers.drain("cpu@host"))[0].state == "draining"


@given(
    total=st.integers(0, 30),
    limit=st.none() | st.integers(0, 35),
    size=st.integers(1, 10),
    given=st.integers(0, 10),
)
def test_paging_delivers_each_once_and_asks_for_no_more(total, limit, size, given):
    """Pages may hold fewer than were asked for, none even, and still have a successor."""
    items = flows.pages("/v1/jobs", {}, Page[Job], limit=limit, page_size=size, policy=RetryPolicy())
    found, asked = [], 0
    reply = None
    with suppress(StopIteration):
        while True:
            step = items.send(reply)
            reply = None
            if isinstance(step, flows.Deliver):
                found.append(step.item)
                continue
            assert isinstance(step, flows.Send)
            asked += 1
            first = int(step.request.params.get("after", "0"))
            # Every other page is a short one.
            end = first + min(int(step.request.params["limit"]), given if asked % 2 else size)
            page = {
                "data": [job(id=f"job_{n}") for n in range(first, min(end, total))],
                "has_more": end < total,
                "next_cursor": str(end) if end < total else None,
            }
            reply = Reply(200, {}, json.dumps(page).encode())
    assert [one.id for one in found] == [
        f"job_{n}" for n in range(total if limit is None else min(total, limit))
    ]
