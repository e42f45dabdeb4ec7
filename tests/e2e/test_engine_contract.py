"""The contract of :class:`workers.engines.base.Engine`, over every engine."""

from __future__ import annotations

import asyncio
import json

import pytest

from jobs.stream_chunks import Chunk, Head, Text
from tests.pace import Pace
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest, Final
from workers.engines.counting import prompt_overhead
from workers.engines.vllm.probe import render

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


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


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        (CHAT, {}),
        (
            CHAT,
            {
                "messages": [
                    {"role": "system", "content": "Be é"},
                    {"role": "user", "content": "wheel " * 500},
                ]
            },
        ),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]}),
        (CHAT, {"tools": [TOOL] * 3, "tool_choice": "auto"}),
        (CHAT, {"reasoning_effort": "low", "chat_template_kwargs": {"x": 1}}),
        (CHAT, {"messages": [{"role": "assistant", "content": "The g"}], "add_generation_prompt": False}),
        (COMPLETIONS, {"prompt": "where does the turbine stand? " * 40}),
        (COMPLETIONS, {"prompt": [7, 8, 9, 10] * 30}),
        (COMPLETIONS, {"prompt": ["<|im_end|>  東京 \n"], "add_special_tokens": False}),
    ],
)
async def test_counts_the_tokens_that_a_run_uses(
    engine: Engine, endpoint: str, more: dict[str, object]
) -> None:
    body = body_of(engine, endpoint, **{"max_tokens": 1, **more})
    final = await engine.run(request_of(body, endpoint), never)
    assert final.usage is not None, final.body
    assert await engine.count(endpoint, json.dumps(body).encode()) == final.usage.prompt_tokens


async def test_of_several_prompts_the_longest_counts(engine: Engine) -> None:
    prompts = ["short", "word " * 50, "a b c d e f g h i j k l m n o p q r s t u v w x y z" * 10]
    counts = []
    for prompt in prompts:
        body = json.dumps(body_of(engine, COMPLETIONS, prompt=prompt)).encode()
        counts.append(await engine.count(COMPLETIONS, body))
    together = json.dumps(body_of(engine, COMPLETIONS, prompt=prompts)).encode()
    longest = await engine.count(COMPLETIONS, together)
    if engine.name == "simulated":  # it takes them for one
        assert longest > max(counts)
    else:
        assert longest == max(counts)


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
async def test_a_prompt_that_is_one_token_too_long_is_refused(engine: Engine, endpoint: str) -> None:
    """Which one that is, the api learns from :meth:`Engine.count` and ``max_model_len``."""
    (model,) = engine.models()
    assert model.max_model_len

    def body(words: int) -> dict[str, object]:
        text = " the" * words  # a token each, and four bytes
        prompt = {"messages": [{"role": "user", "content": text}]} if endpoint == CHAT else {"prompt": text}
        return body_of(engine, endpoint, max_tokens=5, **prompt)

    async def count(words: int) -> int:
        tokens = await engine.count(endpoint, json.dumps(body(words)).encode())
        assert tokens is not None
        return tokens

    words = model.max_model_len - 1 - await count(1) + 1
    assert [await count(words), await count(words + 1)] == [model.max_model_len - 1, model.max_model_len]
    last = await engine.run(request_of(body(words), endpoint), never)
    assert last.status == 200, last.body
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (model.max_model_len - 1, 1)
    assert (await engine.run(request_of(body(words + 1), endpoint), never)).status == 400
    assert (await engine.run(request_of(body(words + 2), endpoint), never)).status == 400


async def test_more_output_than_the_context_is_refused(engine: Engine) -> None:
    (model,) = engine.models()
    assert model.max_output_tokens == (None if engine.name == "openai" else model.max_model_len)
    too_many = request_of(body_of(engine, CHAT, max_tokens=(model.max_model_len or 0) + 1))
    assert (await engine.run(too_many, never)).status == 400


async def test_what_cannot_be_counted(engine: Engine) -> None:
    assert await engine.count(CHAT, b'{"messages":') is None
    assert await engine.count(COMPLETIONS, b"[]") is None
    if engine.name != "simulated":
        image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
        body = body_of(engine, CHAT, messages=[{"role": "user", "content": image}])
        assert await engine.count(CHAT, json.dumps(body).encode()) is None
    overhead = await prompt_overhead(engine, engine.models()[0])
    assert overhead is not None
    assert 0 < overhead < 200


async def test_progress_is_told_while_there_is_work(engine: Engine) -> None:
    assert engine.progress() is None
    body = body_of(engine, CHAT, max_tokens=3000, ignore_eos=True)
    task = asyncio.create_task(engine.run(request_of(body), never))
    await eventually(lambda: engine.stats().running)
    if engine.in_process:
        before = await eventually(engine.progress)
        await eventually(lambda: engine.progress() != before)
    else:
        assert engine.progress() is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: engine.progress() is None)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("more", [{}, {"n": 2, "temperature": 1}])
async def test_cancel_frees_the_request(engine: Engine, streamed: bool, more: dict[str, object]) -> None:
    if engine.name == "simulated":
        more = {}  # it has one choice only
    body = body_of(engine, CHAT, **{"max_tokens": 3000, "ignore_eos": True, **more})
    task = asyncio.create_task(engine.run(request_of(body, stream=streamed), lambda chunk: None))
    await eventually(lambda: engine.stats().running)
    pace = Pace()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine.stats().running == 0)
    assert pace.allows(1), pace
    # One more: its step tells what the engine really still runs.
    other = asyncio.create_task(engine.run(request_of({**body, "n": 1}), never))
    await eventually(lambda: engine.stats().running == 1)
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS])
async def test_abort_tells_how_far_it_came(engine: Engine, endpoint: str, streamed: bool) -> None:
    if engine.name == "openai" and not streamed:
        return  # a server says nothing of a response that it did not finish
    body = body_of(engine, endpoint, max_tokens=3000, ignore_eos=True)
    chunks: list[Chunk] = []
    task = asyncio.create_task(engine.run(request_of(body, endpoint, stream=streamed), chunks.append))
    await eventually(lambda: engine.stats().running)
    await eventually(lambda: len(chunks) > 20 or (not streamed and engine.stats().kv_cache_usage))
    pace = Pace()
    await engine.abort("job_of_nobody")
    await engine.abort("job_0123456789")
    final = await asyncio.wait_for(task, 20)
    assert final.status == 200
    response = json.loads(final.body)
    choice = response["choices"][0]
    text = choice["message"]["content"] if endpoint == CHAT else choice["text"]
    assert choice.get("finish_reason") in {"abort", None}
    if streamed:
        frames = [json.loads(frame) for frame in render(chunks)]
        deltas = [
            one["delta"].get("content") or "" if endpoint == CHAT else one["text"]
            for frame in frames
            for one in frame["choices"]
        ]
        assert "".join(deltas) == text != ""
        assert not any(one["finish_reason"] for frame in frames for one in frame["choices"])
    await eventually(lambda: engine.stats().running == 0)
    assert pace.allows(3), pace
    assert (await engine.run(request_of(body_of(engine, CHAT)), never)).status == 200


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
