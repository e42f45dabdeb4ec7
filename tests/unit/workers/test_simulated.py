from __future__ import annotations

import asyncio
import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response

from jobs.stream_chunks import Chunk, Head, Text
from tests.support import eventually
from workers.engines.base import EngineDeadError, EngineRequest
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.engine import SimulatedEngine

CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.asyncio


def request(job: str = "job_1", *, stream: bool = False, priority: int = 0, **more: object) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], **more}
    return EngineRequest(job, CHAT, json.dumps(body).encode(), stream=stream, priority=priority)


async def started(**settings: Any) -> SimulatedEngine:
    engine = SimulatedEngine(SimulatedSettings(**settings))
    await engine.start()
    return engine


def text_of(body: bytes) -> str:
    text: str = json.loads(body)["choices"][0]["message"]["content"]
    return text


async def test_texts_depend_on_prompt_and_seed_only() -> None:
    engine, other = await started(), await started(seed=1)
    first = await engine.run(request("job_1"), lambda _: None)
    again = await engine.run(request("job_2", user="somebody"), lambda _: None)
    asked = await engine.run(request(messages=[{"role": "user", "content": "ho"}]), lambda _: None)
    seeded = await other.run(request(), lambda _: None)
    assert text_of(first.body) == text_of(again.body)
    assert text_of(first.body) not in {text_of(asked.body), text_of(seeded.body)}
    assert len(text_of(first.body).split()) == first.usage.completion_tokens == 16


async def test_stream_is_compact() -> None:
    engine = await started()
    chunks: list[Chunk] = []
    await engine.run(request(stream=True, max_tokens=3), chunks.append)
    assert [type(chunk) for chunk in chunks[:-1]] == [Head, Text, Text]


async def test_capacity_lets_the_smallest_priority_first() -> None:
    engine = await started(capacity=1, inter_token_s=0.1)
    ended: list[str] = []

    async def run(job: str, priority: int, tokens: int = 1) -> None:
        await engine.run(request(job, priority=priority, max_tokens=tokens), lambda _: None)
        ended.append(job)

    async with asyncio.TaskGroup() as group:
        group.create_task(run("first", 40, 25))
        await eventually(lambda: engine.stats().running == 1)
        group.create_task(run("low", 30))
        group.create_task(run("lower", 30))
        group.create_task(run("high", 10))
        await eventually(lambda: engine.stats().waiting == 3)
    assert ended == ["first", "high", "low", "lower"]
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)


async def test_cancel_frees_places() -> None:
    engine = await started(capacity=1, ttft_s=60)
    tasks = [asyncio.create_task(engine.run(request(f"job_{place}"), lambda _: None)) for place in range(3)]
    await eventually(lambda: engine.stats().waiting == 2)
    tasks[1].cancel()
    await eventually(lambda: engine.stats().waiting == 1)
    tasks[0].cancel()
    await eventually(lambda: (engine.stats().running, engine.stats().waiting) == (1, 0))
    tasks[2].cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*tasks, return_exceptions=True)
    )
    assert engine.stats().running == 0


async def test_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    engine = await started(journal_path=path, inter_token_s=0.1)
    await engine.run(request("job_1", max_tokens=1), lambda _: None)
    task = asyncio.create_task(engine.run(request("job_2", max_tokens=600), lambda _: None))
    await eventually(lambda: engine.stats().running == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.stop()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["job"], line["event"]) for line in lines] == [
        ("job_1", "start"),
        ("job_1", "end"),
        ("job_2", "start"),
        ("job_2", "abort"),
    ]


def no_chunk(chunk: object) -> None:
    pytest.fail(str(chunk))


async def test_responses() -> None:
    engine = await started()

    async def respond(**body: object) -> Response:
        raw = json.dumps(body).encode()
        final = await engine.run(EngineRequest("r_1", "/v1/responses", raw), no_chunk)
        answer = Response.model_validate_json(final.body)
        assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (
            answer.usage.input_tokens,
            answer.usage.output_tokens,
        )
        return answer

    one, bounded = await respond(input="one"), await respond(input="one", max_output_tokens=3, temperature=0)
    told = await respond(input="one", instructions="be brief")
    assert (one.id, one.status, one.usage.output_tokens, one.temperature) == ("resp_r_1", "completed", 16, 1)
    assert (bounded.status, bounded.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (bounded.usage.output_tokens, bounded.temperature) == (3, 0)
    assert one.output_text.startswith(bounded.output_text)
    assert told.output_text != one.output_text
    wrong: list[dict[str, object]] = [{}, {"input": []}, {"input": "x", "max_output_tokens": 0}]
    for bad in wrong:
        request = EngineRequest("r_1", "/v1/responses", json.dumps(bad).encode())
        assert (await engine.run(request, no_chunk)).status == 400


async def test_embeddings() -> None:
    engine = await started(embedding_dim=8)

    async def embed(**body: object) -> dict:
        final = await engine.run(
            EngineRequest("job_1", "/v1/embeddings", json.dumps(body).encode()), lambda _: None
        )
        assert final.status == 200
        answer: dict = json.loads(final.body)
        return answer

    both = await embed(input=["one", "two"])
    packed = await embed(input="two", encoding_format="base64")
    vectors = [item["embedding"] for item in both["data"]]
    assert vectors[0] != vectors[1]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)
    floats = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    assert floats == pytest.approx(vectors[1], rel=1e-6)
    assert len((await embed(input=[1, 2, 3]))["data"]) == 1


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"messages":null}', b'{"messages":[1],"max_tokens":0}']
)
async def test_refusals(body: bytes) -> None:
    engine = await started()
    final = await engine.run(EngineRequest("job_1", CHAT, body), lambda _: None)
    assert final.status == 400
    assert json.loads(final.body)["error"]["code"] == 400


async def test_stopped_means_dead() -> None:
    engine = await started()
    await engine.stop()
    await engine.stop()
    with pytest.raises(EngineDeadError):
        await engine.check()
    with pytest.raises(EngineDeadError):
        await engine.run(request(), lambda _: None)
