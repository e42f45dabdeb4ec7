"""Single calls of both clients over a real socket: what goes out, what comes back, retries, waits, paging."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncGenerator, Generator
from typing import assert_type

import pytest

from penstock import AsyncPenstock, Job, Penstock, Restarted, Worker, errors
from penstock._core import flows
from tests.pace import Pace
from tests.unit.penstock.double import ID, answer, error, job


def test_submit_sends_the_contract_and_returns_the_job(server, client):
    got = client.submit(
        {"messages": [{"role": "user", "content": "gr\u00fc\u00df"}]},
        model="m",
        priority="high",
        placement={"device": "h100"},
        stream=True,
        metadata={"run": "7"},
        expires_in_s=60,
        queue_timeout_s=30,
        timeout_s=20.5,
        max_attempts=2,
        wait_s=1.2,
        idempotency_key="key",
    )
    (seen,) = server.asked("/v1/jobs")
    assert json.loads(seen.body) == {
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "input": {"messages": [{"role": "user", "content": "gr\u00fc\u00df"}]},
        "priority": "high",
        "placement": {"device": "h100"},
        "stream": True,
        "metadata": {"run": "7"},
        "expires_in_s": 60,
        "queue_timeout_s": 30,
        "timeout_s": 20.5,
        "max_attempts": 2,
    }
    assert (seen.headers["idempotency-key"], seen.headers["prefer"]) == ("key", "wait=2")
    assert seen.headers["user-agent"].startswith("penstock-python/")
    assert (got.id, got.state, got.timings.queue_ms) == (ID, "queued", 7)
    assert got.model_extra == {"object": "job", "a_field_of_the_future": 1}


def test_what_is_not_given_is_left_to_the_server(server, client):
    client.submit({"model": "m"})
    (seen,) = server.asked("/v1/jobs")
    assert json.loads(seen.body) == {"endpoint": "/v1/chat/completions", "input": {"model": "m"}}
    assert "prefer" not in seen.headers
    assert "authorization" not in seen.headers


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": float("inf")}])
def test_a_body_that_is_not_json_is_refused_here(server, client, body):
    with pytest.raises(ValueError, match="JSON compliant"):
        client.submit(body)
    assert server.seen == []


@pytest.mark.parametrize("wait_s", [-1, 301, float("nan")])
def test_a_wait_that_the_server_does_not_grant(client, wait_s):
    with pytest.raises(ValueError, match="wait_s"):
        client.jobs.get(ID, wait_s=wait_s)


@pytest.mark.parametrize("job_id", ["", " "])
def test_an_empty_id_never_becomes_another_path(client, job_id):
    with pytest.raises(ValueError, match="empty"):
        client.jobs.get(job_id)


def test_an_id_cannot_leave_its_path(server, client):
    with pytest.raises(errors.NotFoundError):
        client.jobs.get("../models?x=1")
    assert server.seen[0].query == {}


def test_key_and_address_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("PENSTOCK_URL", server.url + "/v1/")
    monkeypatch.setenv("PENSTOCK_API_KEY", "secret")
    with Penstock() as client:
        client.jobs.get(ID)
        assert "secret" not in repr(client._settings)
    (seen,) = server.seen
    assert (seen.path, seen.headers["authorization"]) == (f"/v1/jobs/{ID}", "Bearer secret")


@pytest.mark.parametrize("key", ["hun\nter2", "hunt\u00e9r2", "hunter2\x7f"])
@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize("kind", [Penstock, AsyncPenstock])
def test_a_key_that_no_header_can_carry_is_refused_at_once(monkeypatch, kind, by_environment, key):
    if by_environment:
        monkeypatch.setenv("PENSTOCK_API_KEY", key)
    with pytest.raises(
        ValueError, match=r"the API key .* may have printable ASCII characters only"
    ) as refused:
        kind("http://127.0.0.1:1", api_key=None if by_environment else key)
    assert "hun" not in str(refused.value)


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_are_retried_after_the_servers_pause_with_one_key(server, client, status):
    server.faults.extend([(status, {"retry-after": "1"}, error("queue_full")), (502, {}, "bad gateway")])
    pace = Pace()
    assert client.submit({"model": "m"}).id == ID
    first, second, third = server.asked("/v1/jobs")
    assert second.at - first.at >= 1
    assert third.at - second.at < pace.stretch(0.9)
    assert len({seen.headers["idempotency-key"] for seen in (first, second, third)}) == 1
    client.submit({"model": "m"})
    assert server.seen[-1].headers["idempotency-key"] != first.headers["idempotency-key"]


def test_retries_end(server):
    server.faults.extend([(503, {}, error("no_worker"))] * 9)
    with Penstock(server.url, max_retries=2) as client, pytest.raises(errors.ServerError):
        client.models()
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_request"), (409, "idempotency_conflict"), (500, "x")]
)
def test_what_another_try_cannot_mend_is_raised_at_once(server, client, status, code):
    server.faults.append((status, {}, error(code)))
    with pytest.raises(errors.APIStatusError):
        client.submit({"model": "m"})
    assert len(server.seen) == 1


def test_a_server_that_speaks_something_else(server, client):
    server.faults.extend([(200, {}, "<html>welcome</html>")] * 3)
    for call in (lambda: client.jobs.get(ID), client.models, client.health):
        with pytest.raises(errors.APIResponseError):
            call()


def test_wait_polls_until_the_end(server, client, monkeypatch):
    monkeypatch.setattr(flows, "MIN_POLL_S", 0.01)
    server.later.extend([job(state="running"), job(state="succeeded", result=answer("hi"))])
    got = client.wait(ID)
    assert (got.state, got.text) == ("succeeded", "hi")
    assert [seen.query for seen in server.seen] == [{"wait": "60"}] * 3


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("failed", errors.JobFailedError),
        ("cancelled", errors.JobCancelledError),
        ("expired", errors.JobExpiredError),
    ],
)
def test_wait_and_result_raise_how_it_ended(server, client, state, kind):
    server.job = job(state=state)
    for call in (client.wait, client.jobs.result):
        with pytest.raises(kind):
            call(ID)
    assert client.wait(ID, check=False).state == state


def test_wait_gives_up_on_time(server, client):
    pace = Pace()
    with pytest.raises(errors.WaitTimeoutError) as caught:
        client.wait(ID, timeout_s=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.job.state == "queued"
    assert 0.2 < pace.took_s < pace.stretch(1)
    assert len(server.seen) > 1


def test_result(server, client):
    with pytest.raises(errors.JobNotFinishedError):
        client.jobs.result(ID)
    server.job = job(state="succeeded", result=answer("hi"))
    assert client.jobs.result(ID) == answer("hi")


def test_health_says_not_ready_without_raising(server, client):
    assert client.health().ready
    server.faults.append((503, {}, {"status": "not_ready", "missing": ["worker"], "checks": {"redis": "ok"}}))
    got = client.health()
    assert (got.ready, got.missing) == (False, ("worker",))


def test_cancel_and_models(server, client):
    client.jobs.cancel(ID)
    assert (server.seen[-1].method, server.seen[-1].path) == ("POST", f"/v1/jobs/{ID}/cancel")
    assert [model.id for model in client.models()] == ["m"]


@pytest.mark.parametrize(
    ("total", "limit", "size"), [(0, None, 2), (5, None, 2), (4, None, 2), (5, 3, 2), (5, 9, 100)]
)
def test_list_pages_by_itself(server, client, total, limit, size):
    server.jobs = [job(id=f"job_{n}") for n in range(total)]
    found = [
        item.id for item in client.jobs.list(state="queued", created_after=1.5, limit=limit, page_size=size)
    ]
    assert found == [f"job_{n}" for n in range(min(total, limit or total))]
    assert {(seen.query["state"], seen.query["created_after"]) for seen in server.seen} == {("queued", "1.5")}
    assert max(int(seen.query["limit"]) for seen in server.seen) <= size


def test_list_asks_for_no_page_before_it_is_needed(server, client):
    server.jobs = [job(id=f"job_{n}") for n in range(5)]
    jobs = client.jobs.list(page_size=2)
    next(jobs)
    next(jobs)
    assert len(server.seen) == 1


@pytest.mark.asyncio
async def test_the_async_client_does_the_same(server):
    server.jobs = [job(id=f"job_{n}") for n in range(3)]
    server.faults.append((503, {}, error("no_worker")))
    async with AsyncPenstock(server.url) as client:
        assert (await client.submit({"model": "m"}, wait_s=1)).id == ID
        assert len([item async for item in client.jobs.list(page_size=2)]) == 3
        assert (await client.health()).ready
        assert (await client.models())[0].id == "m"
        assert (await client.jobs.cancel(ID)).id == ID
        server.job = job(state="succeeded", result=answer("hi"))
        assert (await client.wait(ID)).text == "hi"
        assert await client.jobs.result(ID) == answer("hi")
        assert (await client.jobs.get(ID)).done


RESOURCES = ("jobs", "pools", "workers", "dead", "batches", "files", "adapters")


def public(one):
    return {name: getattr(one, name) for name in dir(one) if not name.startswith("_")}


def shape(one):
    """Each call of a client or a resource: its arguments, its result, its documentation."""
    calls = {name: call for name, call in public(one).items() if callable(call)}
    return {name: (inspect.signature(call), inspect.getdoc(call)) for name, call in calls.items()}


@pytest.mark.asyncio
async def test_both_clients_have_the_same_calls_arguments_results_and_documentation():
    with Penstock() as client:
        async with AsyncPenstock() as aclient:
            assert public(client).keys() == public(aclient).keys()
            assert public(client).keys() >= set(RESOURCES)
            for one, other in (
                (client, aclient),
                *((getattr(client, name), getattr(aclient, name)) for name in RESOURCES),
            ):
                calls = shape(one)
                assert calls == shape(other)
                assert all(doc for _, doc in calls.values())
                assert "self" not in {name for shown, _ in calls.values() for name in shown.parameters}
            ours, theirs = (inspect.signature(kind).parameters for kind in (Penstock, AsyncPenstock))
            assert [(p.name, p.default, p.kind) for p in ours.values()] == [
                (p.name, p.default, p.kind) for p in theirs.values()
            ]


async def types_of_both_clients(client: Penstock, aclient: AsyncPenstock) -> None:
    """Never run: the type checker reads it."""
    assert_type(client.submit({}, model="m", priority="high"), Job)
    assert_type(await aclient.submit({}, model="m", priority="high"), Job)
    assert_type(client.workers.list(), tuple[Worker, ...])
    assert_type(await aclient.workers.list(), tuple[Worker, ...])
    assert_type(client.jobs.list(limit=1), Generator[Job, None, None])
    assert_type(aclient.jobs.list(limit=1), AsyncGenerator[Job, None])
    assert_type(client.stream("j"), Generator[str, None, None])
    assert_type(aclient.jobs.stream("j", on_restart="mark"), AsyncGenerator[str | Restarted, None])
    client.submit({}, modle="m")  # type: ignore[call-arg]
    client.jobs.cancel(1)  # type: ignore[arg-type]


def test_a_call_shows_its_result_and_not_how_it_is_made(client):
    assert str(inspect.signature(client.jobs.cancel)) == "(job_id: 'str') -> 'Job'"
    assert str(inspect.signature(client.workers.list)) == "() -> 'tuple[Worker, ...]'"
    assert client.jobs.cancel.__name__ == "cancel"


def test_the_shortcuts_are_the_calls_of_jobs(client):
    assert all(shape(client)[name] == shape(client.jobs)[name] for name in ("submit", "wait", "stream"))


def test_a_field_that_no_job_has_is_refused_here(server, client):
    with pytest.raises(TypeError, match="submit\\(\\) has no field modle, prio"):
        client.submit({}, prio="high", modle="m")
    assert server.seen == []
