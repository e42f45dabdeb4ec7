"""Stored chat completions: OpenAI's own client against a real api."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from jobs.failures import FailureCode
from jobs.model import JobError
from tests.apiserver import ApiServer
from tests.integration.test_job_streams import WORDS, speak
from tests.pictures import data_uri, image_part, picture
from tests.puppet import MODEL, Puppet

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
HI: Any = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture
async def sdk(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def result(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    ).encode()


async def ask(sdk: openai.AsyncOpenAI, puppet: Puppet, text: str = "yes", **more: Any) -> str:
    """Make a chat completion; return its job's id."""
    given = {"store": True, "messages": HI, **more}
    asking = asyncio.create_task(sdk.chat.completions.create(model=MODEL, **given))
    claim = await puppet.take()
    await puppet.succeed(claim, result(text))
    await asking
    return claim.id


async def test_a_stored_chat_completion_is_read_changed_and_deleted(
    sdk: openai.AsyncOpenAI, puppet: Puppet
) -> None:
    job_id = await ask(sdk, puppet, metadata={"topic": "demo"})
    ident = f"chatcmpl-{job_id}"
    found = await sdk.chat.completions.retrieve(ident)
    assert (found.id, found.choices[0].message.content) == (ident, "yes")
    assert found.metadata == {"topic": "demo"}
    changed = await sdk.chat.completions.update(ident, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    assert await sdk.chat.completions.retrieve(ident) == changed
    deleted = await sdk.chat.completions.delete(ident)
    assert (deleted.id, deleted.deleted, deleted.object) == (ident, True, "chat.completion.deleted")
    assert [one async for one in sdk.chat.completions.list()] == []
    for call in (sdk.chat.completions.retrieve, sdk.chat.completions.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(ident)
        assert caught.value.code == "chat_completion_not_found"


async def test_stored_chat_completions_are_listed_in_pages(sdk: openai.AsyncOpenAI, puppet: Puppet) -> None:
    ids = [
        f"chatcmpl-{await ask(sdk, puppet, str(n), metadata={'even': str(n % 2 == 0), 'n': str(n)})}"
        for n in range(5)
    ]
    await ask(sdk, puppet, store=None)
    await ask(sdk, puppet, store=False)
    every = [one.id async for one in sdk.chat.completions.list(limit=2)]
    assert every == ids
    assert [one.id async for one in sdk.chat.completions.list(limit=2, order="desc")] == ids[::-1]
    listed = [one async for one in sdk.chat.completions.list(metadata={"even": "True", "n": "2"})]
    assert [one.choices[0].message.content for one in listed] == ["2"]
    assert [one.id async for one in sdk.chat.completions.list(model="other")] == []
    await sdk.chat.completions.delete(ids[1])
    page = await sdk.chat.completions.list(after=ids[1], limit=1)
    assert ([one.id for one in page.data], page.has_more) == ([ids[2]], True)


async def test_a_page_of_large_ones_ends_early(sdk: openai.AsyncOpenAI, puppet: Puppet) -> None:
    sizes = [7 << 20, 7 << 20, 7 << 20, 17 << 20, 1]
    ids = [f"chatcmpl-{await ask(sdk, puppet, 'x' * size)}" for size in sizes]
    after: str | openai.Omit = openai.omit
    pages: list[list[int]] = []
    while True:
        page = await sdk.chat.completions.list(limit=100, after=after)
        pages.append([ids.index(one.id) for one in page.data])
        if not page.has_more:
            break
        after = page.data[-1].id
    assert pages == [[0, 1], [2], [3], [4]]


async def test_the_messages_of_a_stored_chat_completion(sdk: openai.AsyncOpenAI, puppet: Puppet) -> None:
    parts = [{"type": "text", "text": "a"}, image_part(data_uri(picture()))]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    ident = f"chatcmpl-{await ask(sdk, puppet, messages=messages)}"
    found = [one async for one in sdk.chat.completions.messages.list(ident, limit=1)]
    assert [(one.id, one.role, one.content) for one in found] == [
        (f"{ident}-0", "system", "be brief"),
        (f"{ident}-1", "user", "a"),
    ]
    assert found[0].content_parts is None
    assert found[1].content_parts is not None
    assert len(found[1].content_parts) == 2
    newest = await sdk.chat.completions.messages.list(ident, order="desc")
    assert [one.id for one in newest.data] == [f"{ident}-1", f"{ident}-0"]


async def test_a_job_is_a_chat_completion_too(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = {"input": {"model": MODEL, "messages": HI}, "metadata": {"from": "job"}}
    job_id = (await http.post("/v1/jobs", json=asked)).json()["id"]
    path = f"{CHAT}/chatcmpl-{job_id}"
    for ask_it in (http.get, http.delete):
        got = await ask_it(path)
        assert (got.status_code, got.json()["error"]["code"]) == (409, "job_not_finished")
    await puppet.succeed(await puppet.take(), result("yes"))
    assert (await http.get(path)).json()["metadata"] == {"from": "job"}
    assert (await http.get(CHAT)).json()["data"] == []
    assert (await http.delete(path)).json()["deleted"]
    assert (await http.get(f"/v1/jobs/{job_id}")).status_code == 404
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_one_that_failed_says_why(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = {"input": {"model": MODEL, "messages": HI, "store": True}}
    job_id = (await http.post("/v1/jobs", json=asked)).json()["id"]
    await puppet.fail(await puppet.take(), JobError(FailureCode.ENGINE_ERROR, "broken"))
    got = await http.get(f"{CHAT}/chatcmpl-{job_id}")
    assert (got.status_code, got.json()["error"]["code"]) == (500, "engine_error")
    assert (await http.get(CHAT)).json()["data"] == []


async def test_a_stored_stream_outlives_its_connection(http: httpx.AsyncClient, puppet: Puppet) -> None:
    body = {"model": MODEL, "messages": HI, "store": True, "stream": True}

    async def begin() -> str:
        async with http.stream("POST", CHAT, json=body) as got:
            async for data in got.aiter_bytes():
                assert data.startswith(b"id: 1\ndata: {")
                break
            return str(got.headers["x-penstock-job-id"])

    asking = asyncio.create_task(begin())
    working = asyncio.create_task(speak(puppet))
    job_id = await asking
    await working
    path = f"{CHAT}/chatcmpl-{job_id}"
    got = await http.get(path, params={"stream": "true", "starting_after": 1})
    data = [line[6:] for line in got.text.split("\n") if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    choices = [choice for one in data[:-1] for choice in json.loads(one)["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "".join(WORDS)


@pytest.mark.parametrize("metadata", [{"k": 1}, {"k" * 65: "x"}, "x", {str(n): "" for n in range(17)}])
async def test_wrong_metadata_of_a_stored_call_is_refused(
    http: httpx.AsyncClient, puppet: Puppet, metadata: Any
) -> None:
    body = {"model": MODEL, "messages": HI, "store": True, "metadata": metadata}
    got = await http.post(CHAT, json=body)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "metadata")


async def test_what_is_no_chat_completion_is_not_found(http: httpx.AsyncClient, puppet: Puppet) -> None:
    asked = {"endpoint": "/v1/completions", "input": {"model": MODEL, "prompt": "x"}}
    job_id = (await http.post("/v1/jobs", json=asked)).json()["id"]
    unstored = {"input": {"model": MODEL, "messages": HI}, "store": False}
    kept_once = (await http.post("/v1/jobs", json=unstored)).json()["id"]
    for ident in (
        f"chatcmpl-{job_id}",
        f"chatcmpl-{kept_once}",
        job_id,
        "chatcmpl-x",
        f"chatcmpl-job_{7:032x}",
    ):
        for path in (f"{CHAT}/{ident}", f"{CHAT}/{ident}/messages", f"{CHAT}/{ident}?stream=true"):
            got = await http.get(path)
            assert (got.status_code, got.json()["error"]["code"]) == (404, "chat_completion_not_found")
