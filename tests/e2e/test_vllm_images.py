"""Images with the tiny model that sees: every answer is vLLM's own, and the whole stack serves them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from jobs.stream_chunks import Chunk, Head, Text
from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.e2e.vllm_servers import Frontend
from tests.loopback import LoopbackServer
from tests.pictures import base64_of, data_uri, picture, shows
from tests.support import wait_until
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
async def test_it_says_what_it_reads(seeing: Any) -> None:
    (model,) = seeing[0].models()
    able = model.capabilities
    assert able.images is not None
    assert (able.images > 1, able.audios, able.videos, able.media_domains) == (True, 0, 0, ())
    assert able.image_tokens is not None
    assert 19 <= able.image_tokens < 60


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, chat(RED, BLUE)), (MESSAGES, message(picture(), picture("blue")))]
)
async def test_a_prompts_tokens_are_counted_with_its_images(
    seeing: Any, path: str, body: dict[str, Any]
) -> None:
    engine, _ = seeing
    answer = json.loads((await run(engine, path, body))[0].body)
    assert await engine.count(path, json.dumps(body).encode()) == said(answer)[1]


@pytest.mark.asyncio(loop_scope="session")
async def test_an_image_that_is_elsewhere_is_not_counted(seeing: Any) -> None:
    engine, _ = seeing
    for url in ("http://example.org/a.png", "file-" + "0" * 32):
        assert await engine.count(CHAT, json.dumps(chat(RED, url)).encode()) is None


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/a.png",
        "file:///etc/hostname",
        "data:image/png,red",
        "data:image/png;base64,!!!!",
        data_uri(picture()[:40]),
        data_uri(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ],
)
async def test_a_bad_image_is_the_clients_error(seeing: Any, url: str) -> None:
    """The rows of batches come to the engine unseen: an error of the server's would be tried three times."""
    final, _ = await run(seeing[0], CHAT, chat(url))
    assert final.status == 400, final.body


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


@pytest.fixture(scope="module")
def seeing_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`penstock up --model tiny-vision`."""
    flags = (*QUICK_FLAGS, "--allowed-media-domains=127.0.0.1")
    stack = start_stack(
        tmp_path_factory.mktemp("seeing-stack"),
        "--no-flower",
        f"--model={MODEL}",
        *(f"--engine-arg={flag}" for flag in flags),
        **QUICK_ENV,  # type: ignore[arg-type]  # none of them is timeout_s
        PENSTOCK_PRIVATE_MEDIA="true",
    )
    yield stack
    stop_stack(stack)


def test_the_whole_stack_shows_images(seeing_stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{seeing_stack.url}/v1", api_key="none", max_retries=0)
    able = client.models.retrieve(MODEL).model_extra["penstock"]["capabilities"]
    assert able["media_domains"] == ["127.0.0.1"]
    whole = client.chat.completions.create(**chat(RED)).choices[0].message.content
    other = client.chat.completions.create(**chat(BLUE)).choices[0].message.content
    assert whole
    assert whole != other
    # By stream.
    chunks = list(client.chat.completions.create(**chat(RED, stream=True)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    # From a file of ours.
    file = client.files.create(file=("red.png", picture("red")), purpose="vision")
    assert client.chat.completions.create(**chat(file.id)).choices[0].message.content == whole
    # By the other endpoints, which have the same prompt.
    assert (
        client.responses.create(**response(RED)).output_text
        == client.responses.create(**response(file.id)).output_text
    )
    anthropic = httpx.post(f"{seeing_stack.url}/v1/messages", json=message(picture("red")), timeout=60)
    assert anthropic.status_code == 200
    # As a job, and as a row of a batch.
    body = {"endpoint": CHAT, "input": chat(RED)}
    job = httpx.post(f"{seeing_stack.url}/v1/jobs?wait=60", json=body, timeout=70).json()
    assert job["result"]["choices"][0]["message"]["content"] == whole
    rows = [
        {"custom_id": name, "method": "POST", "url": CHAT, "body": chat(url)}
        for name, url in (("data", RED), ("file", file.id), ("bad", "data:image/png;base64,AAAA"))
    ]
    texts = run_batch(client, rows)
    assert texts == {"data": whole, "file": whole, "bad": None}


def test_the_whole_stack_shows_images_by_address(seeing_stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{seeing_stack.url}/v1", api_key="none", max_retries=0)
    whole = client.chat.completions.create(**chat(RED)).choices[0].message.content
    with LoopbackServer(_Red, "red") as server:
        assert (
            client.chat.completions.create(**chat(f"{server.url}/red.png")).choices[0].message.content
            == whole
        )
        gone = server.url
    begun = time.monotonic()
    with pytest.raises(openai.BadRequestError, match="cannot be fetched"):
        client.chat.completions.create(**chat(f"{gone}/red.png"))
    assert time.monotonic() - begun < 10  # it took 17.9 s: three attempts of three tries
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("http://example.org/red.png"))
    assert (caught.value.code, caught.value.param) == ("invalid_image_url", "messages.0.content.0")


def test_the_edge_refuses_what_does_not_fit(seeing_stack: Stack) -> None:
    client = openai.OpenAI(base_url=f"{seeing_stack.url}/v1", api_key="none", max_retries=0)
    long = chat(*[RED] * 64)
    long["messages"][0]["content"].append({"type": "text", "text": "river " * 3200})
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**long)
    assert caught.value.code == "context_length_exceeded"
    audio: Any = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [audio]}])
    assert caught.value.code == "unsupported"


class _Red(BaseHTTPRequestHandler):
    """Serves a red picture."""

    def do_GET(self) -> None:
        data = picture("red")
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


def run_batch(client: openai.OpenAI, rows: list[dict[str, Any]]) -> dict[str, str | None]:
    """Return the text of each row's answer; None: it failed."""
    lines = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(file=("rows.jsonl", lines), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    done = wait_until(lambda: (one := client.batches.retrieve(batch.id)).status == "completed" and one, 60)
    texts: dict[str, str | None] = {}
    for ident in (done.output_file_id, done.error_file_id):
        for line in client.files.content(ident).text.splitlines() if ident else ():
            read = json.loads(line)
            answer = read["response"]
            good = answer["status_code"] == 200
            texts[read["custom_id"]] = answer["body"]["choices"][0]["message"]["content"] if good else None
    return texts
