"""A job's stream in OpenAI's form: from the start or after any event, while it runs and after its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest

from jobs.stream_chunks import Frames, Head, Text
from penstock._core.sse import ServerSentEvent, SSEParser
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet

pytestmark = pytest.mark.asyncio

INPUT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
HEAD = Head(
    (
        '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{}}]}',
    ),
    '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":',
    '},"finish_reason":null}]}',
)
CLOSING = (
    '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
)
WORDS = [f"{n} " for n in range(20)]


async def start(http: httpx.AsyncClient, **more: Any) -> str:
    got = await http.post("/v1/jobs", json={"input": INPUT, "stream": True, **more})
    assert got.status_code == 202, got.text
    return str(got.json()["id"])


async def read(
    http: httpx.AsyncClient, job_id: str, after: str = "", most: int = 10_000
) -> list[ServerSentEvent]:
    """Read events until the end of the stream, or ``most`` of them."""
    parser, found = SSEParser(after), []
    params = {"starting_after": after} if after else {}
    async with http.stream("GET", f"/v1/jobs/{job_id}/stream", params=params) as got:
        assert got.status_code == 200, await got.aread()
        async for data in got.aiter_bytes():
            found += parser.feed(data)
            if len(found) >= most:
                return found[:most]
    return found


async def speak(puppet: Puppet) -> None:
    claim = await puppet.take()
    await puppet.say(claim, HEAD, *map(Text, WORDS[:10]))
    await puppet.say(claim, *map(Text, WORDS[10:]))
    await puppet.succeed(claim, b'{"secret":1}', tail=[Frames((CLOSING,))])


def text(events: Sequence[ServerSentEvent]) -> str:
    parts = (json.loads(e.data)["choices"] for e in events if e.data != "[DONE]")
    return "".join(choice["delta"].get("content", "") for choices in parts for choice in choices)


async def test_the_stream_is_cut_at_every_event(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    working = asyncio.create_task(speak(puppet))
    events: list[ServerSentEvent] = []
    while not events or events[-1].data != "[DONE]":
        events += await read(http, job_id, events[-1].id if events else "", most=1)
    await working
    assert text(events) == "".join(WORDS)
    numbers = [int(e.id) for e in events]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == len(WORDS) + 3  # head, words, closing chunk, [DONE]
    closing = json.loads(events[-2].data)
    assert (closing["usage"]["total_tokens"], closing["penstock"]["job_id"]) == (5, job_id)
    for after in range(numbers[-1] + 1):
        rest = await read(http, job_id, str(after))
        assert text(rest) == "".join(WORDS[max(0, after - 1) :])
        assert all(int(e.id) > after for e in rest)
    async with http.stream(
        "GET", f"/v1/jobs/{job_id}/stream", headers={"last-event-id": str(numbers[-2])}
    ) as got:
        assert await got.aread() == f"id: {numbers[-1]}\ndata: [DONE]\n\n".encode()


async def test_openais_client_reads_a_job(api: ApiServer, http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    async with openai.AsyncOpenAI(base_url=api.url, api_key="none", max_retries=0) as sdk:
        stream = await sdk.get(
            f"/v1/jobs/{job_id}/stream",
            cast_to=openai.types.chat.ChatCompletionChunk,
            stream=True,
            stream_cls=openai.AsyncStream[openai.types.chat.ChatCompletionChunk],
        )
        working = asyncio.create_task(speak(puppet))
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        await working
    assert "".join(said) == "".join(WORDS)


async def test_a_waiting_stream_has_its_head_and_pings(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http)
    async with asyncio.timeout(10), http.stream("GET", f"/v1/jobs/{job_id}/stream") as got:
        assert got.headers["x-penstock-job-id"] == job_id
        seen = b""
        async for data in got.aiter_bytes():
            seen += data
            if seen.count(b": ping\n\n") == 2:
                break
    await speak(puppet)  # a reader that leaves cancels nothing


async def test_a_lost_attempt_ends_the_stream_and_the_next_one_follows(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    job_id = await start(http)
    claim = await puppet.take()
    await puppet.say(claim, HEAD, Text("lost"))
    parser, seen = SSEParser(), []
    async with http.stream("GET", f"/v1/jobs/{job_id}/stream") as got:
        lost = False
        async for data in got.aiter_bytes():
            seen += parser.feed(data)
            if not lost and len(seen) == 2:
                lost = True
                await puppet.store.release(claim, puppet.name, "released")
                late = asyncio.create_task(read(http, job_id))  # it sees nothing of the lost attempt
                cut = asyncio.create_task(read(http, job_id, "1"))
                working = asyncio.create_task(speak(puppet))
    await working
    *said, error = seen
    assert text(said) == "lost"
    assert json.loads(error.data)["error"]["code"] == "worker_lost"
    assert await cut == [error]
    rest = await read(http, job_id, error.id)
    assert text(rest) == text(await late) == "".join(WORDS)
    assert [e.id for e in rest][-1] == (await late)[-1].id


async def test_what_cannot_be_streamed_is_refused(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job_id = await start(http, stream=False)
    got = await http.get(f"/v1/jobs/{job_id}/stream")
    assert (got.status_code, got.json()["error"]["param"]) == (400, "stream")
    job_id = await start(http)
    for wrong in ("x", "-1", "1.5", "9" * 16):
        got = await http.get(f"/v1/jobs/{job_id}/stream", params={"starting_after": wrong})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "starting_after")
    got = await http.get(f"/v1/jobs/job_{7:032x}/stream")
    assert (got.status_code, got.json()["error"]["code"]) == (404, "job_not_found")
