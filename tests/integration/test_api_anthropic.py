"""Anthropic's Messages: its SDK, its keys and its errors, against a real api with keys and a worker on strings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import pytest
import pytest_asyncio

from broker.settings import BrokerSettings
from jobs.endpoints import CHAT, COUNT_TOKENS, MESSAGES
from jobs.failures import FailureCode
from jobs.model import JobError, Usage
from tests.apiserver import ApiServer
from tests.puppet import FACTS, MODEL, Puppet

pytestmark = pytest.mark.asyncio

KEY, PEPPER = "sk-alice", "a pepper of the tests"
SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
ANSWER = {
    "id": "chatcmpl-1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "hello"}],
    "model": MODEL,
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


@pytest.fixture
def guarded(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(
        broker_settings, api_keys={"alice": KEY}, key_pepper=PEPPER, max_body_bytes=4096
    ) as server:
        yield server


@pytest_asyncio.fixture
async def worker(guarded: ApiServer, puppet: Puppet) -> Puppet:
    """A worker whose model has Messages, and an alias."""
    await puppet.live(facts={**FACTS, "endpoints": [MESSAGES, COUNT_TOKENS]}, aliases=["claude"])
    return puppet


@pytest_asyncio.fixture
async def http(guarded: ApiServer, worker: Puppet) -> AsyncIterator[httpx.AsyncClient]:
    async with guarded.client(headers={"x-api-key": KEY, "anthropic-version": "2023-06-01"}) as client:
        yield client


@pytest_asyncio.fixture
async def sdk(guarded: ApiServer, worker: Puppet) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=guarded.url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_the_sdk_sends_its_key_in_its_own_way(sdk: anthropic.AsyncAnthropic, worker: Puppet) -> None:
    asked = asyncio.create_task(sdk.messages.create(model="claude", system="Be brief.", **SAY))
    claim = await worker.take()
    assert json.loads(claim.body) == {"model": MODEL, "system": "Be brief.", **SAY}
    assert (claim.endpoint, claim.lane, claim.tenant, claim.stream) == (MESSAGES, "realtime", "alice", False)
    await worker.succeed(claim, json.dumps(ANSWER).encode())
    got = await asked
    assert (got.content[0].text, got.usage.output_tokens) == ("hello", 2)
    assert got._request_id


async def test_a_tier_of_anthropics_is_taken_and_not_told(http: httpx.AsyncClient, worker: Puppet) -> None:
    for tier in ("auto", "standard_only"):
        asked = asyncio.create_task(http.post(MESSAGES, json={"model": MODEL, "service_tier": tier, **SAY}))
        claim = await worker.take()
        assert claim.lane == "realtime"
        await worker.succeed(claim, json.dumps(ANSWER).encode())
        assert (await asked).json() == ANSWER


async def test_tokens_are_counted_as_a_short_job(sdk: anthropic.AsyncAnthropic, worker: Puppet) -> None:
    long: list[Any] = [{"role": "user", "content": "x" * 2000}]  # more than the model's context: nothing runs
    asked = asyncio.create_task(sdk.messages.count_tokens(model=MODEL, messages=long))
    claim = await worker.take()
    assert (claim.endpoint, claim.lane) == (COUNT_TOKENS, "realtime")
    await worker.succeed(claim, b'{"input_tokens": 7}', usage=Usage(0, 0, 0))
    assert (await asked).input_tokens == 7


REFUSED: list[tuple[type[anthropic.APIStatusError], dict[str, Any]]] = [
    (anthropic.BadRequestError, {"messages": []}),
    (anthropic.BadRequestError, {"messages": [{"role": "user", "content": "x" * 2000}]}),
    (anthropic.BadRequestError, {"system": "x" * 2000}),
    (anthropic.BadRequestError, {"stop_sequences": "x"}),
    (anthropic.NotFoundError, {"model": "nobody"}),
    (anthropic.RequestTooLargeError, {"messages": [{"role": "user", "content": "x" * 5000}]}),
]


async def test_the_sdk_knows_our_refusals(sdk: anthropic.AsyncAnthropic) -> None:
    for error, given in REFUSED:
        with pytest.raises(error) as caught:
            await sdk.messages.create(**{"model": MODEL, **SAY, **given})
        told: Any = caught.value.body
        assert told["type"] == "error"
        assert told["error"]["type"] == caught.value.type
        assert told["error"]["message"]
        assert told["request_id"] == caught.value.request_id
        assert told["request_id"] == caught.value.response.headers["x-request-id"]


async def test_without_a_key_anthropics_words_say_so(guarded: ApiServer) -> None:
    for headers in ({}, {"x-api-key": "sk-other"}, {"authorization": "Bearer sk-other"}):
        async with guarded.client(headers=headers) as client:
            for path in (MESSAGES, COUNT_TOKENS):
                got = await client.post(path, json=SAY)
                assert (got.status_code, got.json()["error"]["type"]) == (401, "authentication_error")
                assert got.headers["content-type"] == "application/json"
            other = await client.post(CHAT, json=SAY)  # every other path has OpenAI's shape
            assert (other.status_code, other.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_every_call_takes_such_a_key(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models")).status_code == 200
    both = {"x-api-key": "sk-other", "authorization": f"Bearer {KEY}"}
    assert (await http.get("/v1/models", headers=both)).status_code == 200


ERRORS = {
    400: ("invalid_request_error", FailureCode.INVALID_REQUEST),
    404: ("not_found_error", FailureCode.MODEL_NOT_FOUND),
    429: ("rate_limit_error", FailureCode.ENGINE_UNAVAILABLE),
    500: ("api_error", FailureCode.ENGINE_ERROR),
    503: ("overloaded_error", FailureCode.ENGINE_UNAVAILABLE),
    504: ("timeout_error", FailureCode.TIMEOUT),
}
BODIES = (
    b'{"error": {"message": "the pump is off", "type": "x", "param": null, "code": 1}}',
    b'{"type": "error", "error": {"type": "BadRequestError", "message": "the pump is off"}}',
    b"",
)


async def test_an_engines_error_keeps_its_words(http: httpx.AsyncClient, worker: Puppet) -> None:
    for status, (kind, code) in ERRORS.items():
        for body in BODIES:
            asked = asyncio.create_task(http.post(MESSAGES, json={"model": MODEL, **SAY}))
            claim = await worker.take()
            await worker.fail(claim, JobError(code, "the pump is off"), status, body)
            got = await asked
            told = got.json()
            assert (got.status_code, told["error"]) == (status, {"type": kind, "message": "the pump is off"})
            assert told["request_id"] == got.headers["request-id"]
            assert got.headers["x-penstock-job-id"] == claim.id


async def test_a_wrong_method_has_the_shape_too(http: httpx.AsyncClient) -> None:
    got = await http.get(MESSAGES)
    assert (got.status_code, got.json()["type"], got.headers["allow"]) == (405, "error", "POST")


async def test_another_models_messages_are_refused_before_they_are_queued(
    http: httpx.AsyncClient, worker: Puppet
) -> None:
    await worker.live(model="ranker", facts={**FACTS, "endpoints": ["/v1/rerank"]})
    got = await http.post(MESSAGES, json={"model": "ranker", **SAY})
    assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "does not do /v1/messages; it does /v1/rerank" in got.json()["error"]["message"]
    assert await worker.waiting() == 0
