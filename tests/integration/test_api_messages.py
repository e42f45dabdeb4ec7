"""Streams of Anthropic's Messages, as its SDK reads them, from a worker on strings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import anthropic
import pytest
import pytest_asyncio

from jobs.endpoints import MESSAGES
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.states import JobState
from jobs.stream_chunks import Frames
from tests.apiserver import ApiServer
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

START = {
    "type": "message_start",
    "message": {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": MODEL,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 0},
    },
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
STOP = {"type": "content_block_stop", "index": 0}
DELTA = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
END = {"type": "message_stop"}


def frames(*events: object) -> Frames:
    return Frames(tuple(json.dumps(event) for event in events))


def word(text: str) -> dict[str, object]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


@pytest_asyncio.fixture
async def client(api: ApiServer, puppet: Puppet) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's SDK; the worker's model has Messages."""
    await puppet.live(facts={**FACTS, "endpoints": [MESSAGES]})
    async with anthropic.AsyncAnthropic(base_url=api.url, api_key="none", max_retries=0) as made:
        yield made


async def said(
    client: anthropic.AsyncAnthropic, work: Callable[[], Awaitable[None]]
) -> tuple[list[str], anthropic.APIError | None]:
    """Return the texts that a stream has while the worker does this, and the error that ends it."""
    worker = asyncio.ensure_future(work())
    texts, failed = [], None
    try:
        async with client.messages.stream(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            texts = [text async for text in stream.text_stream]
            assert (await stream.get_final_message()).usage.output_tokens == 2
    except anthropic.APIError as error:
        failed = error
    await worker
    return texts, failed


async def test_a_stream(client: anthropic.AsyncAnthropic, puppet: Puppet) -> None:
    async def work() -> None:
        claim = await puppet.take()
        assert (claim.endpoint, claim.stream) == (MESSAGES, True)
        await puppet.say(claim, frames(START, BLOCK), frames(word("é"), word(" b\u2028")))
        await puppet.succeed(claim, tail=[frames(word("c"), STOP, DELTA, END)])

    assert await said(client, work) == (["é", " b\u2028", "c"], None)


async def test_the_end_waits_for_the_jobs_end(client: anthropic.AsyncAnthropic, puppet: Puppet) -> None:
    """A client that has seen the end counts the answer as its own: the job must not run again after that."""

    async def work() -> None:
        first = await puppet.take()
        await puppet.say(first, frames(DELTA, END))
        await puppet.store.release(first, puppet.name, "released")
        again = await puppet.take()
        await puppet.say(again, frames(START, BLOCK, word("a")))
        await puppet.succeed(again, tail=[frames(STOP, DELTA, END)])

    assert await said(client, work) == (["a"], None)


async def test_an_attempt_that_is_lost_after_output_ends_the_stream(
    client: anthropic.AsyncAnthropic, puppet: Puppet
) -> None:
    ids = []

    async def work() -> None:
        first = await puppet.take()
        ids.append(first.id)
        await puppet.say(first, frames(START, BLOCK, word("a")))
        await puppet.store.release(first, puppet.name, "released")
        await puppet.take()

    _, failed = await said(client, work)
    assert failed is not None
    assert failed.body == {
        "type": "error",
        "error": {
            "type": "overloaded_error",
            "message": "the worker was lost after part of the answer was sent; retry the request",
        },
    }

    async def told() -> bool:
        return (await puppet.beat()).get(ids[0]) == "cancelled"

    await eventually(told)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (JobError(FailureCode.ENGINE_ERROR, "it broke"), "api_error"),
        (JobError(FailureCode.TIMEOUT, "too long"), "timeout_error"),
        (None, "invalid_request_error"),
    ],
)
async def test_a_failure_after_output_is_an_event(
    client: anthropic.AsyncAnthropic, puppet: Puppet, end: JobError | None, kind: str
) -> None:
    async def work() -> None:
        claim = await puppet.take()
        await puppet.say(claim, frames(START))
        if end is None:
            await puppet.store.finish(claim, puppet.name, JobState.CANCELLED)
        else:
            await puppet.fail(claim, end)

    _, failed = await said(client, work)
    assert failed is not None
    assert isinstance(failed.body, dict)
    assert failed.body["error"]["type"] == kind
