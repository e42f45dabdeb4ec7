"""Anthropic's own SDK against the whole stack with vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from tests.e2e.stacks import Stack

MODEL = "tiny-random"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
    },
}

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


@pytest_asyncio.fixture(loop_scope="session")
async def client(vllm_stack: Stack) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=vllm_stack.url, api_key="none", max_retries=0) as made:
        yield made


async def test_a_message(client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(
        model=MODEL,
        max_tokens=12,
        messages=[*HELLO, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Well"}],
        system=[{"type": "text", "text": "be brief"}],
        extra_body={"temperature": 0.5, "top_k": 50},
        stop_sequences=["never said"],
        metadata={"user_id": "me"},
    )
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.content[0].text
    assert 0 < message.usage.output_tokens <= 12
    assert message.usage.input_tokens > 20


async def test_a_stream_is_the_message(client: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 24, "messages": HELLO, "extra_body": {"temperature": 0}}
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert message.content[0].text == whole.content[0].text
    assert (message.usage, message.stop_reason) == (whole.usage, whole.stop_reason)
    assert [kinds[0], kinds[-1]] == ["message_start", "message_stop"]
    raw = await client.messages.create(**asked, stream=True)
    texts = [event.delta.text async for event in raw if event.type == "content_block_delta"]
    assert "".join(texts) == whole.content[0].text


async def test_a_tool_is_called_in_a_stream(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(
        model=MODEL,
        max_tokens=200,
        messages=HELLO,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "weather"},
        extra_body={"temperature": 0},
    ) as stream:
        message = await stream.get_final_message()
    (block,) = message.content
    assert (block.type, block.name, message.stop_reason) == ("tool_use", "weather", "tool_use")


async def test_tokens_are_counted_as_they_are_used(client: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "system": "be brief", "tools": [TOOL]}
    counted = await client.messages.count_tokens(**asked)
    used = await client.messages.create(**asked, max_tokens=1)
    assert counted.input_tokens == used.usage.input_tokens


async def test_errors_are_those_of_the_sdk(client: anthropic.AsyncAnthropic) -> None:
    for stream in (False, True):
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await client.messages.create(model="nobody", max_tokens=1, messages=HELLO, stream=stream)
        assert unknown.value.type == "not_found_error"
        assert "nobody" in str(unknown.value)
        with pytest.raises(anthropic.BadRequestError) as empty:
            await client.messages.create(model=MODEL, max_tokens=1, messages=[], stream=stream)
        assert empty.value.type == "invalid_request_error"
        assert "messages" in str(empty.value)
        words: Any = [{"role": "user", "content": "word " * 9000}]
        with pytest.raises(anthropic.BadRequestError) as long:
            await client.messages.create(model=MODEL, max_tokens=1, messages=words, stream=stream)
        assert long.value.type == "invalid_request_error"
