"""Streams that are silent, before their first chunk and later: proxies see a head and comments, and no end is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.stream_chunks import Frames, Head, Text
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
HEAD = Head(
    ('{"id":"x","choices":[{"delta":{"role":"a"},"finish_reason":null}]}',),
    '{"id":"x","choices":[{"delta":{"content":',
    '},"finish_reason":null}]}',
)
CLOSING = '{"id":"x","choices":[{"delta":{"content":"!"},"finish_reason":"stop"}]}'
PING = ": ping\n\n"


class Reader:
    """Reads one stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._parts = response.aiter_text()
        self.text = ""

    async def until(self, wanted: str) -> None:
        while wanted not in self.text:
            self.text += await anext(self._parts)

    async def rest(self) -> str:
        async for part in self._parts:
            self.text += part
        return self.text


@asynccontextmanager
async def silent(http: httpx.AsyncClient, **more: Any) -> AsyncIterator[Reader]:
    """Call, and wait for the first comment: the head is there, and nothing else before it."""
    async with http.stream("POST", CHAT, json=BODY | more) as response:
        reader = Reader(response)
        await reader.until(PING)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-penstock-job-id"].startswith("job_")
        assert reader.text.startswith(PING)
        yield reader


def error_of(text: str) -> dict[str, Any]:
    """Return the error that is the last event of a stream."""
    last = text.split("\n\n")[-2].removeprefix("data: ")
    return dict(json.loads(last)["error"])


async def test_a_stream_that_waits_in_the_queue_has_a_head(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async with silent(http) as reader:
        claim = await puppet.take()
        await puppet.say(claim, HEAD, Text("a"))
        await reader.until('"content":"a"')
        before = reader.text.count(PING)
        while reader.text.count(PING) < before + 2:  # silent again
            reader.text += await anext(reader._parts)
        await puppet.succeed(claim, tail=[Frames((CLOSING,))])
        text = (await reader.rest()).replace(PING, "")
    frames = [frame.removeprefix("data: ") for frame in text.split("\n\n")[:-1]]
    assert frames[-1] == "[DONE]"
    assert [json.loads(f)["choices"][0]["delta"].get("content") for f in frames[:-1]] == [None, "a", "!"]


async def test_a_stream_gets_its_head_at_once_if_it_asks(
    broker_settings: BrokerSettings, puppet: Puppet
) -> None:
    early = {"x-penstock-early-head": "1"}
    with ApiServer(broker_settings, sse_ping_s=3600) as server:
        async with server.client() as http:
            async with http.stream("POST", CHAT, json=BODY, headers=early) as response:
                job_id = response.headers["x-penstock-job-id"]
                job = (await http.get(f"/v1/jobs/{job_id}")).json()
                assert (job["state"], job["position"]) == ("queued", 0)
                await http.post(f"/v1/jobs/{job_id}/cancel")
                text = await Reader(response).rest()
            assert (response.status_code, error_of(text)["code"]) == (200, "job_cancelled")
            refused = await http.post(CHAT, json=BODY | {"model": "none"}, headers=early)
            assert refused.status_code == 404  # what is refused before it waits has its status


async def test_openais_sdk_reads_over_the_comments(api: ApiServer, puppet: Puppet) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        call = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        stream = await call  # before any worker has it
        claim = await puppet.take()
        await puppet.say(claim, HEAD, Text("a"))
        await puppet.succeed(claim, tail=[Frames((CLOSING,))])
        texts = [chunk.choices[0].delta.content async for chunk in stream]
        assert texts == [None, "a", "!"]
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "the pump is off"))
        with pytest.raises(openai.APIError, match="the pump is off") as caught:
            await anext(aiter(stream))
        assert caught.value.code == "engine_error"


async def test_an_engines_refusal_is_an_event(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async with silent(http) as reader:
        claim = await puppet.take()
        body = b'{"error":{"message":"no\\nway","type":"x","param":"n","code":"invalid_request"}}'
        await puppet.fail(claim, JobError(FailureCode.INVALID_REQUEST, "no\nway", "n"), 400, body)
        error = error_of(await reader.rest())
    told = {"message": "no\nway", "type": "invalid_request_error", "param": "n", "code": "invalid_request"}
    assert error == told


async def test_an_answer_of_an_engine_that_cannot_stream_is_one_event(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    async with silent(http) as reader:
        await puppet.succeed(await puppet.take(), b'{\n "id": "x",\n "choices": []\n}')
        text = (await reader.rest()).replace(PING, "")
    assert text == 'data: {"id":"x","choices":[]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(("tier", "code"), [("default", "queue_timeout"), ("flex", "resource_unavailable")])
async def test_a_start_that_comes_too_late_is_an_event(
    broker_settings: BrokerSettings, puppet: Puppet, tier: str, code: str
) -> None:
    given = {
        "queue_timeout_s": 2.0,
        "reap_interval_s": 0.05,
        "sse_ping_s": 0.05,
    }  # the first comment comes before
    with ApiServer(broker_settings, **given) as api:
        async with api.client() as http, silent(http, service_tier=tier) as reader:
            assert error_of(await reader.rest())["code"] == code
        assert puppet.name


async def test_a_reader_who_leaves_while_it_waits_cancels_its_job(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    async with silent(http):
        assert await puppet.waiting() == 1

    async def gone() -> bool:
        return await puppet.waiting() == 0

    await eventually(gone)
