"""``Idempotency-Key`` on synchronous calls: a repeated call gets the answer of the first one's job."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from broker.claims import Claim
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.stream_chunks import Text
from tests.apiserver import ApiServer
from tests.integration.test_job_streams import HEAD, speak
from tests.puppet import MODEL, Puppet

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
KEY = {"idempotency-key": "k-1"}


async def jobs(http: httpx.AsyncClient) -> list[str]:
    return [one["id"] for one in (await http.get("/v1/jobs")).json()["data"]]


async def test_a_repeated_call_gets_the_same_answer(http: httpx.AsyncClient, puppet: Puppet) -> None:
    first = asyncio.create_task(http.post(CHAT, json=BODY, headers=KEY))
    claim = await puppet.take()
    second = asyncio.create_task(http.post(CHAT, json=BODY, headers=KEY))
    await puppet.succeed(claim, b'{"x":1.50}')
    answers = [await first, await second, await http.post(CHAT, json=BODY, headers=KEY)]
    assert {(got.status_code, got.content) for got in answers} == {(200, b'{"x":1.50}')}
    assert {got.headers["x-penstock-job-id"] for got in answers} == {claim.id}
    assert await jobs(http) == [claim.id]


async def test_a_failure_is_repeated_too(http: httpx.AsyncClient, puppet: Puppet) -> None:
    first = asyncio.create_task(http.post(CHAT, json=BODY, headers=KEY))
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "broken"), 500)
    answers = [await first, await http.post(CHAT, json=BODY, headers=KEY)]
    assert {(got.status_code, got.json()["error"]["code"]) for got in answers} == {(500, "engine_error")}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, BODY | {"max_tokens": 3}),
        (CHAT, BODY | {"stream": True}),
        ("/v1/completions", {"model": MODEL, "prompt": "x"}),
    ],
)
async def test_another_call_with_the_key_is_refused(
    http: httpx.AsyncClient, puppet: Puppet, path: str, body: dict[str, Any]
) -> None:
    first = asyncio.create_task(http.post(CHAT, json=BODY, headers=KEY))
    claim = await puppet.take()
    got = await http.post(path, json=body, headers=KEY)
    assert (got.status_code, got.json()["error"]["code"]) == (409, "idempotency_conflict")
    await puppet.succeed(claim)
    await first


async def test_a_wrong_key_is_refused(http: httpx.AsyncClient, puppet: Puppet) -> None:
    got = await http.post(CHAT, json=BODY, headers={"idempotency-key": "k" * 256})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert await jobs(http) == []


async def test_a_call_with_a_key_outlives_its_connection(http: httpx.AsyncClient, puppet: Puppet) -> None:
    first = asyncio.create_task(http.post(CHAT, json=BODY, headers=KEY))
    claim = await puppet.take()
    first.cancel()
    await asyncio.wait([first])
    assert await puppet.beat() == {}
    await puppet.succeed(claim, b'{"x":2}')
    assert (await http.post(CHAT, json=BODY, headers=KEY)).json() == {"x": 2}


async def test_a_call_that_was_told_to_retry_runs_when_it_is_repeated(
    broker_settings: BrokerSettings, store: JobStore
) -> None:
    puppet = Puppet(store)
    await puppet.live()
    with ApiServer(broker_settings, queue_timeout_s=0.5, reap_interval_s=0.05) as api:
        async with api.client() as client:
            late = await client.post(CHAT, json=BODY, headers=KEY)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
            claims: list[Claim] = []
            while not claims:  # on a busy machine, too, one repetition is claimed in time
                call = asyncio.create_task(client.post(CHAT, json=BODY, headers=KEY))
                while not (claims or call.done()):
                    claims = await store.claim(puppet.name)
            (claim,) = claims
            await puppet.succeed(claim, b'{"x":3}')
            assert (await call).json() == {"x": 3}
            assert claim.id != late.headers["x-penstock-job-id"]


async def test_a_stream_is_joined_from_its_start(http: httpx.AsyncClient, puppet: Puppet) -> None:
    body = BODY | {"stream": True}
    first = asyncio.create_task(http.post(CHAT, json=body, headers=KEY))
    working = asyncio.create_task(speak(puppet))
    answers = [await first, await http.post(CHAT, json=body, headers=KEY)]
    await working
    whole = await http.get(f"/v1/jobs/{answers[0].headers['x-penstock-job-id']}/stream")
    assert "".join(_texts(answers[0])) == "".join(_texts(answers[1])) == "".join(_texts(whole))
    assert all(got.text.endswith("data: [DONE]\n\n") for got in answers)
    assert len(await jobs(http)) == 1


async def test_who_joins_a_restarted_stream_sees_no_lost_attempt(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    body = BODY | {"stream": True}
    first = asyncio.create_task(http.post(CHAT, json=body, headers=KEY))
    claim = await puppet.take()
    await puppet.say(claim, HEAD, Text("lost"))
    await puppet.store.release(claim, puppet.name, "released")
    await speak(puppet)
    assert "worker_lost" in (await first).text
    joined = await http.post(CHAT, json=body, headers=KEY)
    assert "lost" not in joined.text
    assert joined.text.endswith("data: [DONE]\n\n")


def _texts(got: httpx.Response) -> list[str]:
    data = [line[6:] for line in got.text.split("\n") if line.startswith("data: {")]
    choices = [choice for one in data for choice in json.loads(one)["choices"]]
    return [choice["delta"].get("content", "") for choice in choices]
