"""What an OpenAI-compatible server may answer besides OpenAI's JSON: a job fails with a code, and stays readable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from tests.apiserver import ApiServer
from tests.integration.test_worker import ready, start_worker
from tests.processes import WorkerProcess
from tests.support import eventually
from tests.upstream import Answer, Upstream

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

LATIN = b'{"choices": [{"message": {"content": "gr\xfc\xdfe"}}]}'
HTML = b"<html><title>sorry</title></html>"


def sse(*frames: bytes) -> bytes:
    return b"".join(b"data: %b\n\n" % frame for frame in (*frames, b"[DONE]"))


WHOLE: dict[str, tuple[Answer, int, str]] = {
    "latin": ((200, "application/json", LATIN), 503, "engine_unavailable"),
    "portal": ((200, "text/html", HTML), 503, "engine_unavailable"),
    "torn": ((200, "application/json", b'{"choices": ['), 503, "engine_unavailable"),
    "empty": ((200, "application/json", b""), 503, "engine_unavailable"),
    "refused": ((400, "application/json", b'{"error": {"message": "\xe4"}}'), 400, "invalid_request"),
    "plain": ((400, "text/plain", b"no"), 400, "invalid_request"),
}
STREAMED = {
    "s-latin": sse(b'{"choices": [{"index": 0, "delta": {"content": "gr\xfc\xdfe"}}]}'),
    "s-torn": sse(b'{"choices": ['),
    "s-number": sse(b"5"),
    "s-choices": sse(b'{"choices": 7}'),
    "s-choice": sse(b'{"choices": [7]}'),
    "s-delta": sse(b'{"choices": [{"index": 0, "delta": 7}]}'),
    "s-usage": sse(b'{"choices": [], "usage": "many"}'),
}


def answer(body: dict[str, Any]) -> Answer:
    if body["user"] in STREAMED:
        return 200, "text/event-stream", STREAMED[body["user"]]
    return WHOLE[body["user"]][0]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(answer) as server:
        yield server


@pytest_asyncio.fixture
async def site(
    api: ApiServer,
    http: httpx.AsyncClient,
    store: JobStore,
    upstream: Upstream,
    ready: Callable[..., Awaitable[WorkerProcess]],
) -> AsyncIterator[httpx.AsyncClient]:
    await ready(
        engine="openai", openai_base_url=upstream.url, concurrency=8, retry_base_s=0.01, retry_max_s=0.01
    )

    async def known() -> bool:
        return (await http.get("/health/ready")).status_code == 200

    await eventually(known)
    yield http


def request(name: str) -> dict[str, Any]:
    return {"model": "upstream", "messages": [{"role": "user", "content": "hi"}], "user": name}


async def test_whole_answers(site: httpx.AsyncClient) -> None:
    async def check(name: str) -> None:
        _, status, code = WHOLE[name]
        called = await site.post("/v1/chat/completions", json=request(name))
        assert called.status_code in {status, 502}, called.text
        assert called.json()["error"]["message"]
        job = (await site.post("/v1/jobs?wait=20", json={"input": request(name)})).json()
        assert (job["state"], job["error"]["code"]) == ("failed", code)
        assert "not JSON" in job["error"]["message"]
        assert (await site.get(f"/v1/jobs/{job['id']}")).json()["error"] == job["error"]
        told = await site.get(f"/v1/jobs/{job['id']}/result")
        assert json.loads(told.content)["error"]["message"]

    await asyncio.gather(*map(check, WHOLE))


async def test_streams(site: httpx.AsyncClient) -> None:
    async def check(name: str) -> None:
        asked = {"input": request(name), "stream": True, "max_attempts": 1}
        job = (await site.post("/v1/jobs?wait=20", json=asked)).json()
        assert (job["state"], job["error"]["code"]) == ("failed", "engine_unavailable")
        assert "bad chunk" in job["error"]["message"]
        assert (await site.get(f"/v1/jobs/{job['id']}")).status_code == 200

    await asyncio.gather(*map(check, STREAMED))
