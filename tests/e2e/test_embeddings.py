"""Embeddings through the whole stack: `penstock up` with real vLLM, serving a tiny embedding model."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.stacks import Stack, start_stack, stop_stack
from workers.engines.base import Engine, EngineRequest
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings

MODEL = "tiny-embed"
LIMIT = 128
TEXTS = ["water", "The wheel turns at night.", "日本 é " * 9, " the" * 100]
FLAGS = [
    "--runner=pooling",
    "--convert=embed",
    f"--max-model-len={LIMIT}",
    "--enforce-eager",
    "--dtype=float32",
    f"--kv-cache-memory-bytes={256 << 20}",
]
EMBED, JOBS = "/v1/embeddings", "/v1/jobs"

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def embedding_stack(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = start_stack(
        tmp_path_factory.mktemp("embedding-stack"),
        f"--model={tiny_model_path}",
        "--no-flower",
        *(f"--engine-arg={flag}" for flag in FLAGS),
        PENSTOCK_SERVED_MODEL_NAME=MODEL,
    )
    yield stack
    stop_stack(stack)


@pytest.fixture(scope="module")
def http(embedding_stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=embedding_stack.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def direct(tiny_model_path: Path) -> list[list[float]]:
    """The reference: vLLM's own answers with the same flags and no stack around it, one at a time."""
    settings = VllmSettings(str(tiny_model_path), served_model_name=(MODEL,), extra_args=tuple(FLAGS))

    async def run() -> list[list[float]]:
        engine = make_engine(settings)
        await engine.start()
        try:
            return [await embed(engine, text) for text in TEXTS]
        finally:
            await engine.stop()

    async def embed(engine: Engine, text: str) -> list[float]:
        body = json.dumps({"model": MODEL, "input": text}).encode()
        final = await engine.run(EngineRequest("job_0", EMBED, body), lambda _: None)
        answer = json.loads(final.body)
        assert await engine.count(EMBED, body) == answer["usage"]["prompt_tokens"]
        vector: list[float] = answer["data"][0]["embedding"]
        return vector

    vectors = asyncio.run(run())
    assert len({tuple(vector) for vector in vectors}) == len(TEXTS)
    return vectors


def vectors_of(answer: dict[str, Any]) -> list[list[float]]:
    data = answer["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [
        unpack(item["embedding"]) if isinstance(item["embedding"], str) else item["embedding"]
        for item in data
    ]


def unpack(text: str) -> list[float]:
    raw = base64.b64decode(text)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_sync_equals_the_engine(http: httpx.Client, direct: list[list[float]], more: dict[str, str]) -> None:
    for text, expected in zip(TEXTS, direct, strict=True):
        got = http.post(EMBED, json={"model": MODEL, "input": text, **more})
        assert got.status_code == 200, got.text
        answer = got.json()
        assert isinstance(answer["data"][0]["embedding"], str) == (more.get("encoding_format") == "base64")
        assert vectors_of(answer) == [expected]
        assert answer["id"].endswith(got.headers["x-penstock-job-id"])
        job = http.get(f"{JOBS}/{got.headers['x-penstock-job-id']}").json()
        assert (job["state"], job["endpoint"], job["model"]) == ("succeeded", EMBED, MODEL)
        assert job["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"] > 0


def test_jobs_equal_the_engine(http: httpx.Client, direct: list[list[float]]) -> None:
    """Submitted and polled, one input each and all inputs at once."""
    bodies: list[Any] = [*TEXTS, TEXTS]
    expected = [*([vector] for vector in direct), direct]
    for given, vectors in zip(bodies, expected, strict=True):
        submitted = http.post(JOBS, json={"endpoint": EMBED, "model": MODEL, "input": {"input": given}})
        assert submitted.status_code == 202, submitted.text
        job = http.get(submitted.headers["location"], params={"wait": 30}).json()
        assert job["state"] == "succeeded"
        assert vectors_of(job["result"]) == vectors
        assert job["usage"]["completion_tokens"] == 0


def test_openai_sdk(embedding_stack: Stack, direct: list[list[float]]) -> None:
    client = OpenAI(base_url=f"{embedding_stack.url}/v1", api_key="none", max_retries=0, timeout=60)
    (model,) = client.models.list().data
    assert model.id == MODEL
    answer = client.embeddings.create(model=MODEL, input=TEXTS)  # the SDK asks for base64
    assert [item.embedding for item in answer.data] == direct
    floats = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
    assert floats.data[0].embedding == direct[0]
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert (chat.value.code, chat.value.param) == ("unsupported", "model")


def test_what_an_embedding_model_cannot_do_is_refused(http: httpx.Client) -> None:
    before = http.get(JOBS).json()["data"]
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    for path, body in (
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", chat | {"stream": True}),
        ("/v1/completions", {"model": MODEL, "prompt": "hi"}),
        (JOBS, {"input": chat}),
    ):
        got = http.post(path, json=body)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "unsupported"), got.text
    assert http.get(JOBS).json()["data"] == before


def test_an_input_may_fill_the_context_and_no_more(http: httpx.Client) -> None:
    def embed(words: int, path: str = EMBED) -> httpx.Response:
        body = {"model": MODEL, "input": ["short", " the" * words]}  # a token each
        return http.post(path, json=body if path == EMBED else {"endpoint": EMBED, "input": body})

    assert embed(LIMIT).status_code == 200
    before = http.get(JOBS).json()["data"]
    for path in (EMBED, JOBS):
        error = embed(LIMIT + 1, path)
        assert (error.status_code, error.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert error.json()["error"]["param"] == "input"
    assert http.get(JOBS).json()["data"] == before
