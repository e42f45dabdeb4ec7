"""Rerank, score and classify through the whole stack, `penstock up --model tiny-rerank`: calls, jobs, batches, commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.batching import create, ended, lines
from tests.e2e.engines import QUICK_ENV, QUICK_FLAGS
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.environment import clean
from tests.processes import ROOT

MODEL = "tiny-rerank"
DOCUMENTS = ["The river flows.", "A stone dam", "winter market"]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"query": "water", "documents": DOCUMENTS},
    "/v1/score": {"text_1": "water", "text_2": DOCUMENTS},
    "/v1/classify": {"input": DOCUMENTS},
    "/v1/pooling": {"input": DOCUMENTS},
}

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start_stack(
        tmp_path_factory.mktemp("rerank-stack"),
        f"--model={MODEL}",
        "--no-flower",
        *(f"--engine-arg={flag}" for flag in QUICK_FLAGS),
        timeout_s=240,
        **QUICK_ENV,
    )
    yield started
    stop_stack(started)


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client


def numbers(answer: dict[str, Any]) -> list[Any]:
    """Return what an answer says of each document, with numbers cut to what does not depend on the batch."""
    found = sorted(answer.get("results") or answer["data"], key=lambda one: one["index"])
    return [{key: _cut(value) for key, value in one.items()} for one in found]


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(one) for one in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def test_calls_and_jobs_are_equal(http: httpx.Client) -> None:
    for path, asked in BODIES.items():
        called = http.post(path, json=asked)  # without a model: the only one that is served
        if called.status_code == 400:
            called = http.post(path, json={"model": MODEL, **asked})
        assert called.status_code == 200, called.text
        job = http.post(
            "/v1/jobs", json={"endpoint": path, "input": {"model": MODEL, **asked}}, params={"wait": 30}
        )
        assert job.json()["state"] == "succeeded"
        assert numbers(job.json()["result"]) == numbers(called.json())
        assert job.json()["usage"]["prompt_tokens"] == called.json()["usage"]["prompt_tokens"] > 0


def test_what_it_cannot_do_is_refused_before_it_is_queued(http: httpx.Client) -> None:
    before = http.get("/v1/jobs").json()["data"]
    said = [{"role": "user", "content": "hi"}]
    for path, body in (
        ("/v1/chat/completions", {"messages": said}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/messages", {"messages": said, "max_tokens": 4}),
        ("/v1/jobs", {"endpoint": "/v1/responses", "input": {"model": MODEL, "input": "hi"}}),
    ):
        got = http.post(path, json={"model": MODEL, **body} if path != "/v1/jobs" else body)
        assert got.status_code == 400
        assert "does not do" in got.json()["error"]["message"]
    long = http.post("/v1/rerank", json={"model": MODEL, "query": "water", "documents": ["the " * 900]})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert len(http.get("/v1/jobs").json()["data"]) <= len(before) + 1


@pytest.mark.asyncio
async def test_batches_are_equal(http: httpx.Client, stack: Stack) -> None:
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0) as client:
        for path, asked in BODIES.items():
            rows = [
                {
                    "custom_id": f"r{n}",
                    "method": "POST",
                    "url": path,
                    "body": {"model": MODEL, "user": f"u{n}", **asked},
                }
                for n in range(20)
            ]
            batch = await ended(client, (await create(client, rows, endpoint=path)).id, 60)
            assert (batch.status, batch.request_counts.completed) == ("completed", 20)
            called = http.post(path, json={"model": MODEL, **asked}).json()
            output = await lines(client, batch.output_file_id)
            for line in output:
                assert numbers(line["response"]["body"]) == numbers(called)
            assert batch.usage.input_tokens == 20 * called["usage"]["prompt_tokens"]


def test_the_command_line(stack: Stack) -> None:
    body = json.dumps(BODIES["/v1/rerank"])
    command = [sys.executable, "-m", "penstock", "submit", "--json"]
    done = subprocess.run(
        [*command, "--endpoint", "rerank", "-d", body, "--wait"],
        cwd=ROOT,
        env=clean() | {"PENSTOCK_URL": stack.url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["result"]["results"]) == len(DOCUMENTS)
