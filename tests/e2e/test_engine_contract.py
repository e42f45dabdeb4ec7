"""The contract of :class:`workers.engines.base.Engine`, over every engine."""

from __future__ import annotations

import asyncio
import json

import pytest

from jobs.chunks import Chunk, Head, Text
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest, Final
from workers.engines.probe import render

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

pytestmark = pytest.mark.asyncio(loop_scope="session")


def body_of(engine: Engine, endpoint: str, **more: object) -> dict[str, object]:
    prompt = (
        {"messages": [{"role": "user", "content": "Say a word"}]}
        if endpoint == CHAT
        else {"prompt": "Say a word"}
    )
    return {"model": engine.models()[0].name, **prompt, "max_tokens": 12, "temperature": 0, **more}


def request_of(body: dict[str, object], endpoint: str = CHAT, *, stream: bool = False) -> EngineRequest:
    return EngineRequest("job_0123456789", endpoint, json.dumps(body).encode(), stream=stream)


async def stream(engine: Engine, body: dict[str, object], endpoint: str = CHAT) -> tuple[list[Chunk], Final]:
    chunks: list[Chunk] = []
    final = await engine.run(request_of(body, endpoint, stream=True), chunks.append)
    return chunks, final


def never(chunk: Chunk) -> None:
    pytest.fail(f"emitted {chunk} for a request that is not streamed")


async def test_says_what_it_serves(engine: Engine) -> None:
    (model,) = engine.models()
    assert model.card["id"] == model.name
    assert {CHAT, COMPLETIONS} <= set(model.endpoints)
    assert model.max_model_len
    assert engine.capacity() > 1
    await engine.check()


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stray", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
async def test_whole_response(engine: Engine, endpoint: str, stray: dict[str, object]) -> None:
    """The body's own ``stream`` is overruled."""
    final = await engine.run(
        request_of(body_of(engine, endpoint, request_id="mine", **stray), endpoint), never
    )
    response = json.loads(final.body)
    assert final.status == 200
    assert response["id"].endswith("-job_0123456789")
    assert response["choices"][0]["finish_reason"] == "length"
    assert final.usage is not None
    assert final.usage.completion_tokens == 12 == response["usage"]["completion_tokens"]
    assert final.usage.prompt_tokens == response["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("usage", [False, True])
async def test_stream_says_the_same_as_the_whole(engine: Engine, endpoint: str, usage: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if usage else {}
    whole = await engine.run(request_of(body_of(engine, endpoint), endpoint), never)
    chunks, final = await stream(engine, body_of(engine, endpoint, **more), endpoint)
    frames = [json.loads(frame) for frame in render(chunks)]
    assert {frame["id"] for frame in frames} == {json.loads(whole.body)["id"]}
    assert [not frame["choices"] for frame in frames] == [False] * (len(frames) - usage) + [True] * usage
    if usage:
        assert frames.pop()["usage"]["completion_tokens"] == 12
    choices = [frame["choices"][0] for frame in frames]
    expected = json.loads(whole.body)["choices"][0]
    if endpoint == CHAT:
        said = "".join(choice["delta"].get("content") or "" for choice in choices)
        assert choices[0]["delta"]["role"] == "assistant"
        assert (
            said
            == expected["message"]["content"]
            == json.loads(final.body)["choices"][0]["message"]["content"]
        )
    else:
        said = "".join(choice["text"] for choice in choices)
        assert said == expected["text"] == json.loads(final.body)["choices"][0]["text"]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "length" == json.loads(final.body)["choices"][0]["finish_reason"]
    assert final.usage == whole.usage


async def test_compact_streams_have_one_head_first(engine: Engine) -> None:
    chunks, _ = await stream(engine, body_of(engine, CHAT))
    heads = [place for place, chunk in enumerate(chunks) if isinstance(chunk, Head)]
    assert heads == ([] if engine.name == "openai" else [0])
    assert any(isinstance(chunk, Text) for chunk in chunks) == bool(heads)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "other"}, 404),
        ({"max_tokens": "many"}, 400),
        ({"messages": None}, 400),
        ({"max_tokens": 10**6}, 400),
    ],
)
async def test_refusals_are_returned(
    engine: Engine, change: dict[str, object], status: int, streamed: bool
) -> None:
    if change == {"max_tokens": 10**6} and engine.name != "simulated":
        change = {"messages": [{"role": "user", "content": "word " * 9000}]}
    request = request_of(body_of(engine, CHAT, **change), stream=streamed)
    final = await engine.run(request, never)
    assert (final.status, final.usage) == (status, None)
    assert json.loads(final.body)["error"]["message"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_not_json_is_refused(engine: Engine, streamed: bool) -> None:
    final = await engine.run(EngineRequest("job_1", CHAT, b'{"model":', stream=streamed), never)
    assert final.status in {400, 422}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("more", [{}, {"n": 2, "temperature": 1}])
async def test_cancel_frees_the_request(engine: Engine, streamed: bool, more: dict[str, object]) -> None:
    if engine.name == "simulated":
        more = {}  # it has one choice only
    body = body_of(engine, CHAT, **{"max_tokens": 3000, "ignore_eos": True, **more})
    task = asyncio.create_task(engine.run(request_of(body, stream=streamed), lambda chunk: None))
    await eventually(lambda: engine.stats().running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine.stats().running == 0, timeout_s=1)
    # One more: its step tells what the engine really still runs.
    other = asyncio.create_task(engine.run(request_of({**body, "n": 1}), never))
    await eventually(lambda: engine.stats().running == 1)
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


async def test_runs_many_at_once(engine: Engine) -> None:
    bodies = [
        body_of(engine, CHAT, messages=[{"role": "user", "content": f"Number {place}"}])
        for place in range(24)
    ]
    alone = [await engine.run(request_of(body), never) for body in bodies[:2]]
    requests = [
        EngineRequest(f"job_{place}", CHAT, json.dumps(body).encode(), stream=place % 2 == 0)
        for place, body in enumerate(bodies)
    ]
    finals = await asyncio.gather(*(engine.run(request, lambda _: None) for request in requests))
    assert {final.status for final in finals} == {200}
    assert [json.loads(final.body)["id"].rpartition("_")[2] for final in finals] == [
        str(place) for place in range(24)
    ]
    for lone, among in zip(alone, finals, strict=False):
        assert lone.usage == among.usage
