"""The contract of :class:`workers.engines.base.Engine` for endpoints that stream events, over every engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from jobs.endpoints import MESSAGES, RESPONSES
from jobs.stream_chunks import Chunk, Frames
from tests.pace import Pace
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest, Final

ID = "job_0123456789"
LONG = {
    "format": {"type": "json_schema", "schema": {"type": "array", "items": {"enum": ["a"]}, "minItems": 3000}}
}
EVENTS = {
    RESPONSES: TypeAdapter[Any](ResponseStreamEvent),
    MESSAGES: TypeAdapter[Any](RawMessageStreamEvent),
}

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]
both = pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES])


def request_of(
    engine: Engine,
    endpoint: str,
    *,
    stream: bool = False,
    stray: bool | None = None,
    tokens: int = 12,
    **more: object,
) -> EngineRequest:
    prompt = (
        {"input": "Say a word", "max_output_tokens": tokens}
        if endpoint == RESPONSES
        else {"messages": [{"role": "user", "content": "Say a word"}], "max_tokens": tokens}
    )
    if tokens > 1000:  # the model may not stop before
        more |= {"ignore_eos": True} if endpoint == RESPONSES else {"output_config": LONG}
    body = {"model": engine.models()[0].name, **prompt, "temperature": 0, "stream": stray, **more}
    return EngineRequest(ID, endpoint, json.dumps(body).encode(), stream=stream)


async def streamed(engine: Engine, request: EngineRequest) -> tuple[list[dict[str, Any]], Final]:
    chunks: list[Chunk] = []
    final = await engine.run(request, chunks.append)
    return events_of(chunks), final


def events_of(chunks: list[Chunk]) -> list[dict[str, Any]]:
    frames: list[str] = []
    for chunk in chunks:
        assert isinstance(chunk, Frames)
        assert not any("\n" in frame for frame in chunk.frames)
        frames += chunk.frames
    return [json.loads(frame) for frame in frames]


def never(chunk: Chunk) -> None:
    pytest.fail(f"emitted {chunk} for a request that is not streamed")


def said(endpoint: str, answer: dict[str, Any]) -> str:
    if endpoint == RESPONSES:
        return Response.model_validate(answer).output_text
    return "".join(block.text for block in Message.model_validate(answer).content)


def deltas(events: list[dict[str, Any]]) -> str:
    texts = [one["delta"] for one in events if one["type"] == "response.output_text.delta"]
    return "".join(texts or [one["delta"]["text"] for one in events if one["type"] == "content_block_delta"])


@both
async def test_whole_answer(engine: Engine, endpoint: str) -> None:
    """The body's own ``stream`` is overruled."""
    final = await engine.run(request_of(engine, endpoint, stray=True), never)
    answer = json.loads(final.body)
    assert (final.status, final.usage.completion_tokens) == (200, 12)
    assert answer["usage"]["input_tokens"] == final.usage.prompt_tokens == final.usage.total_tokens - 12 > 0
    if endpoint == RESPONSES:
        assert answer["id"] == f"resp_{ID}" or (engine.name == "openai" and answer["id"].startswith("resp_"))
        assert (answer["status"], answer["incomplete_details"]) == (
            "incomplete",
            {"reason": "max_output_tokens"},
        )
    else:
        assert (answer["id"], answer["stop_reason"]) == (f"chatcmpl-{ID}", "max_tokens")
    assert said(endpoint, answer)


@both
async def test_stream_says_the_same_as_the_whole(engine: Engine, endpoint: str) -> None:
    whole = await engine.run(request_of(engine, endpoint), never)
    events, final = await streamed(engine, request_of(engine, endpoint, stream=True))
    for event in events:
        EVENTS[endpoint].validate_python(event)
    expected, answer = json.loads(whole.body), json.loads(final.body)
    assert deltas(events) == said(endpoint, answer) == said(endpoint, expected) != ""
    assert (final.status, final.usage) == (200, whole.usage)
    if endpoint == RESPONSES:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [events[0]["type"], events[-1]["type"]] == ["response.created", "response.completed"]
        assert events[-1]["response"] == answer
        own = {"id", "created_at", "output"} if engine.name == "openai" else {"created_at", "output"}
        assert {**expected, **dict.fromkeys(own)} == {**answer, **dict.fromkeys(own)}
    else:
        assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
        assert answer["stop_sequence"] is None
        assert {**expected, "stop_sequence": None} == answer


@both
async def test_a_response_has_a_chunk_for_each_step(engine: Engine, endpoint: str) -> None:
    chunks: list[Chunk] = []
    await engine.run(request_of(engine, endpoint, stream=True), chunks.append)
    assert len(chunks) > 3


@both
@pytest.mark.parametrize("streamed_", [False, True])
async def test_refusals_are_returned(engine: Engine, endpoint: str, streamed_: bool) -> None:
    wrong = {"max_tokens": -1, "max_output_tokens": -1}
    changes: list[tuple[dict[str, Any], int]] = [({"model": "other"}, 404), (wrong, 400)]
    for change, status in changes:
        final = await engine.run(request_of(engine, endpoint, stream=streamed_, **change), never)
        assert (final.status, final.usage) == (status, None)
        assert json.loads(final.body)["error"]["message"]


@both
@pytest.mark.parametrize("streamed_", [False, True])
async def test_cancel_frees_the_request(engine: Engine, endpoint: str, streamed_: bool) -> None:
    request = request_of(engine, endpoint, stream=streamed_, tokens=3000)
    task = asyncio.create_task(engine.run(request, lambda _: None))
    await eventually(lambda: engine.stats().running)
    pace = Pace()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine.stats().running == 0)
    assert pace.allows(1), pace


@both
@pytest.mark.parametrize("streamed_", [False, True])
async def test_abort_tells_how_far_it_came(engine: Engine, endpoint: str, streamed_: bool) -> None:
    if engine.name == "openai" and not streamed_:
        return  # a server says nothing of a response that it did not finish
    chunks: list[Chunk] = []
    request = request_of(engine, endpoint, stream=streamed_, tokens=3000)
    task = asyncio.create_task(engine.run(request, chunks.append))
    await eventually(lambda: engine.stats().running)
    await eventually(lambda: len(chunks) > 8 or (not streamed_ and engine.stats().kv_cache_usage))
    pace = Pace()
    await engine.abort(ID)
    final = await asyncio.wait_for(task, 20)
    answer = json.loads(final.body)
    assert final.status == 200
    assert answer.get("status", "cancelled") == "cancelled"
    events = events_of(chunks)
    assert not {"response.completed", "message_delta", "message_stop"} & {event["type"] for event in events}
    assert said(endpoint, answer).startswith(deltas(events)) if streamed_ else not events
    await eventually(lambda: engine.stats().running == 0)
    assert pace.allows(3), pace
    assert (await engine.run(request_of(engine, endpoint), never)).status == 200
