"""Images with the tiny model that sees: every answer is vLLM's own, and the whole stack serves them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from jobs.stream_chunks import Chunk, Head, Text
from tests.e2e.engines import QUICK_FLAGS
from tests.e2e.vllm_servers import Frontend
from tests.pictures import base64_of, data_uri, picture, shows
from workers.devices.tiny_models import TINY_MODELS, build_tiny_model
from workers.engines.base import Engine, EngineRequest, Final
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings
from workers.engines.vllm.probe import render

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
MODEL = "tiny-vision"
RED, BLUE = data_uri(picture("red")), data_uri(picture("blue", form="JPEG"), "image/jpeg")

pytestmark = [pytest.mark.xdist_group("vllm"), pytest.mark.full]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seeing(
    vllm_settings: VllmSettings, tiny_model_path: Path
) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    """The engine, and vLLM's own app over it; ``vllm_settings`` sets the environment."""
    path = build_tiny_model(tiny_model_path.parent, TINY_MODELS[MODEL])
    settings = VllmSettings.tiny(path, name=MODEL, max_num_seqs=16, extra_args=QUICK_FLAGS)
    engine = make_engine(settings)
    await engine.start()
    try:
        async with Frontend(engine, settings) as front, httpx.AsyncClient(base_url=front.url) as client:
            yield engine, client
    finally:
        await engine.stop()


async def run(
    engine: Engine, path: str, body: dict[str, Any], *, ident: str = "job_1"
) -> tuple[Final, list[Chunk]]:
    chunks: list[Chunk] = []
    request = EngineRequest(ident, path, json.dumps(body).encode(), body.get("stream") is True)
    return await engine.run(request, chunks.append), chunks


def chat(*urls: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": shows(*urls), "max_tokens": 8, "temperature": 0, **more}


def message(*images: bytes) -> dict[str, Any]:
    """Return a body of Anthropic's Messages."""
    parts: list[dict[str, Any]] = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64_of(one)}}
        for one in images
    ]
    content = [*parts, {"type": "text", "text": "What is this?"}]
    return {
        "model": MODEL,
        "max_tokens": 8,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }


def response(*urls: str) -> dict[str, Any]:
    """Return a body of Responses."""
    parts: list[dict[str, Any]] = [
        {"type": "input_image", "detail": "auto", "image_url": url} for url in urls
    ]
    content = [*parts, {"type": "input_text", "text": "What is this?"}]
    asked = [{"role": "user", "content": content}]
    return {"model": MODEL, "max_output_tokens": 8, "temperature": 0, "input": asked}


def said(answer: dict[str, Any]) -> tuple[str, int]:
    """Return the text of an answer of any of the three endpoints, and the tokens of its prompt."""
    usage = answer["usage"]
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"], usage["prompt_tokens"]
    content = (answer.get("output") or [answer])[0]["content"]
    return content[0]["text"], usage["input_tokens"]


@pytest.mark.asyncio(loop_scope="session")
async def test_the_texts_depend_on_the_images(seeing: Any) -> None:
    engine, _ = seeing
    asked = ((RED,), (BLUE,), (RED, BLUE), (BLUE, RED), ())
    answers = [said(json.loads((await run(engine, CHAT, chat(*urls)))[0].body)) for urls in asked]
    assert len({text for text, _ in answers}) == len(asked)
    none = answers[-1][1]
    assert [tokens - none for _, tokens in answers] == [19, 19, 38, 38, 0]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(RED)),
        (CHAT, chat(RED, BLUE, logprobs=True)),
        (RESPONSES, response(RED)),
        (MESSAGES, message(picture())),
    ],
)
async def test_an_answer_is_vllms_own(seeing: Any, path: str, body: dict[str, Any]) -> None:
    engine, theirs = seeing
    final, _ = await run(engine, path, body)
    answer = await theirs.post(path, json=body)
    assert (final.status, answer.status_code) == (200, 200)
    assert said(json.loads(final.body)) == said(answer.json())


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_is_compact_and_equal_to_vllms_own(seeing: Any, usage: bool) -> None:
    engine, theirs = seeing
    body = chat(RED, stream=True, stream_options={"include_usage": usage})
    for _ in range(8):  # a busy machine joins deltas, and not the same ones on both sides
        _, chunks = await run(engine, CHAT, body)
        assert isinstance(chunks[0], Head)
        assert any(isinstance(chunk, Text) for chunk in chunks)
        lines = (await theirs.post(CHAT, json=body)).text.split("\n\n")
        own = [line.removeprefix("data: ") for line in lines if line][:-1]  # without [DONE]
        if len(own) == len(render(chunks)):
            break
    assert [essence(frame) for frame in render(chunks)] == [essence(frame) for frame in own]


def essence(frame: str) -> str:
    """Return a frame as it came, but for what differs between two requests."""
    tree = json.loads(frame)
    for name in ("id", "created"):
        frame = frame.replace(f'"{name}":{json.dumps(tree[name])}', "")
    return frame
