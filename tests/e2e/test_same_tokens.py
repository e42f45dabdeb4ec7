"""Same prompts, greedy: every way in gives exactly what `LLM.generate` gives, to the caller who asked."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from penstock import AsyncPenstock
from tests.e2e.engines import QUICK_ENV
from tests.e2e.stacks import Stack
from tests.processes import ROOT

pytestmark = pytest.mark.xdist_group("vllm")

JOBS = 500
MODEL = "tiny-random"
WORDS = [
    "water",
    "gate",
    "wheel",
    "light",
    "window",
    "town",
    "rain",
    "lake",
    "valley",
    "wall",
    "power",
    "bread",
    "night",
    "river",
    "engine",
    "hum",
]


def requests() -> list[dict[str, Any]]:
    rng = random.Random(2026)
    made = []
    for n in range(JOBS):
        prompt = f"{n} " + " ".join(rng.choices(WORDS, k=rng.randint(3, 30)))
        made.append(
            {"kind": rng.choice(["chat", "completion"]), "prompt": prompt, "max_tokens": rng.randint(1, 16)}
        )
    return made


@pytest.fixture(scope="module")
def offline(tiny_model_path: Path) -> list[dict[str, Any]]:
    """The reference, from vLLM's offline class in its own process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.e2e.offline"],
        cwd=ROOT,
        input=json.dumps({"model": str(tiny_model_path), "requests": requests()}),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | QUICK_ENV
        | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def body(request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    common = {"model": MODEL, "max_tokens": request["max_tokens"], "temperature": 0.0}
    if request["kind"] == "chat":
        return "/v1/chat/completions", common | {"messages": [{"role": "user", "content": request["prompt"]}]}
    return "/v1/completions", common | {"prompt": request["prompt"]}


def text_of(result: dict[str, Any]) -> str:
    choice = result["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


class Ways:
    """The ways in, each from a request to its text and, where the way shows them, its tokens."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=120)
        self.openai = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120, max_retries=0)
        self.sdk = AsyncPenstock(base_url=url, timeout=120)
        self.url = url

    async def sync(self, request: dict[str, Any]) -> tuple[str, list[int] | None]:
        path, payload = body(request)
        answer = await self.http.post(path, json=payload | {"return_token_ids": True})
        assert answer.status_code == 200, answer.text
        result = answer.json()
        assert result["id"].endswith(answer.headers["x-penstock-job-id"])
        return text_of(result), result["choices"][0]["token_ids"]

    async def stream(self, request: dict[str, Any]) -> tuple[str, list[int] | None]:
        path, payload = body(request)
        if path.endswith("chat/completions"):
            chunks = await self.openai.chat.completions.create(**payload, stream=True)
            parts = [c.choices[0].delta.content or "" async for c in chunks]
        else:
            chunks = await self.openai.completions.create(**payload, stream=True)
            parts = [c.choices[0].text async for c in chunks]
        return "".join(parts), None

    async def submit_and_poll(self, request: dict[str, Any]) -> tuple[str, list[int] | None]:
        path, payload = body(request)
        submitted = await self.http.post(
            "/v1/jobs", json={"endpoint": path, "model": MODEL, "input": payload | {"return_token_ids": True}}
        )
        assert submitted.status_code == 202, submitted.text
        job = submitted.json()
        while job["state"] in {"queued", "running"}:
            job = (await self.http.get(job["links"]["status_url"], params={"wait": 30})).json()
        assert job["usage"]["completion_tokens"] == len(job["result"]["choices"][0]["token_ids"])
        return text_of(job["result"]), job["result"]["choices"][0]["token_ids"]

    async def job_stream(self, request: dict[str, Any]) -> tuple[str, list[int] | None]:
        path, payload = body(request)
        job = await self.sdk.submit(payload, endpoint=path, model=MODEL, stream=True)
        parts = [part async for part in self.sdk.stream(job.id)]
        return "".join(str(part) for part in parts), None

    async def wait(self, request: dict[str, Any]) -> tuple[str, list[int] | None]:
        path, payload = body(request)
        answer = await self.http.post(
            "/v1/jobs",
            json={"endpoint": path, "input": payload, "priority": "high"},
            headers={"prefer": "wait=100"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["preference-applied"] == "wait=100"
        return text_of(answer.json()["result"]), None

    async def command(self, request: dict[str, Any]) -> tuple[str, list[int] | None]:
        path, payload = body(request)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock", "--url", self.url, "submit", "--endpoint", path),
            *("--input", "-", "--wait", "--json"),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(json.dumps(payload).encode())
        assert process.returncode == 0
        return text_of(json.loads(out)["result"]), None

    async def close(self) -> None:
        await self.http.aclose()
        await self.openai.close()
        await self.sdk.close()


@pytest.mark.asyncio
async def test_500_jobs_through_every_way_equal_llm_generate(
    offline: list[dict[str, Any]], vllm_stack: Stack
) -> None:
    ways = Ways(vllm_stack.url)
    rotation = [ways.sync, ways.stream, ways.submit_and_poll, ways.job_stream, ways.wait]
    jobs = [(n, request, rotation[n % len(rotation)]) for n, request in enumerate(requests())]
    jobs = [(n, r, ways.command if n % 50 == 7 else way) for n, r, way in jobs]
    random.Random(5).shuffle(jobs)
    gate = asyncio.Semaphore(64)
    wrong: list[str] = []

    async def check(n: int, request: dict[str, Any], way: Any) -> None:
        async with gate:
            text, tokens = await way(request)
        if text != offline[n]["text"] or tokens not in (None, offline[n]["tokens"]):
            wrong.append(f"{way.__name__} {n}: {text!r} instead of {offline[n]['text']!r}")

    try:
        await asyncio.gather(*(check(*job) for job in jobs))
    finally:
        await ways.close()
    assert not wrong, "\n".join(wrong[:10])
