"""Rerank, score, classify, pooling, tokens: a real api, and workers, simulated or before another server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from jobs.endpoints import ENDPOINTS
from tests.apiserver import ApiServer
from tests.batching import create, ended, lines
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.puppet import FACTS, Puppet
from tests.upstream import Upstream

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

DOCUMENTS = ["The river flows.", "A stone dam", "winter market"]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"query": "water", "documents": DOCUMENTS, "top_n": 2},
    "/v1/score": {"text_1": "water", "text_2": DOCUMENTS},
    "/v1/classify": {"input": DOCUMENTS},
    "/v1/pooling": {"input": DOCUMENTS[0]},
    "/tokenize": {"prompt": DOCUMENTS[0]},
    "/detokenize": {"tokens": [6, 7]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
}


@pytest_asyncio.fixture
async def http(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as made:
        yield made


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs from request to request."""
    return {key: value for key, value in answer.items() if key not in {"id", "created"}}


async def test_calls_jobs_and_rows_get_the_same_answers(
    http: httpx.AsyncClient, client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    for path, asked in BODIES.items():
        one, body = ENDPOINTS[path], {"model": "simulated", **asked}
        called = await http.post(path, json=body)
        assert called.status_code == 200, called.text
        answer = called.json()
        job_id = called.headers["x-penstock-job-id"]
        assert answer.get("id", "") == one.response_id.format(job_id)
        for alias in one.aliases:
            assert told((await http.post(alias, json=body)).json()) == told(answer)
        record = (await http.get(f"/v1/jobs/{job_id}")).json()
        usage = answer.get("usage")
        assert (record["endpoint"], record["usage"] and record["usage"]["prompt_tokens"]) == (
            path,
            usage and usage["prompt_tokens"],
        )
        submitted = await http.post("/v1/jobs", json={"endpoint": path, "input": body}, params={"wait": 10})
        assert told(submitted.json()["result"]) == told(answer)
        if not one.rows:
            continue
        rows = [{"custom_id": "r", "method": "POST", "url": path, "body": body}]
        batch = await ended(client, (await create(client, rows, endpoint=path)).id)
        (line,) = await lines(client, batch.output_file_id)
        assert told(line["response"]["body"]) == told(answer)
        assert batch.usage.input_tokens == usage["prompt_tokens"]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/rerank", {"query": "q"}, "documents"),
    ("/v1/rerank", {"documents": ["d"]}, "query"),
    ("/v1/rerank", {"query": "q", "documents": ["d"], "top_n": "many"}, "top_n"),
    ("/v1/rerank", {"query": "q", "documents": ["d"] * 2049}, "documents"),
    ("/v1/rerank", {"query": "q", "documents": [1]}, "documents"),
    ("/v2/rerank", {"query": "q"}, "documents"),
    ("/v1/score", {"text_1": "a"}, "text_2"),
    ("/v1/score", {"text_2": "a"}, "text_1"),
    ("/v1/score", {"queries": "a", "documents": ["b"] * 2049}, "documents"),
    ("/v1/classify", {}, "input"),
    ("/v1/classify", {"input": ["x"] * 2049}, "input"),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/detokenize", {"tokens": "x"}, "tokens"),
    ("/detokenize", {"tokens": [-1]}, "tokens"),
]


async def test_a_wrong_body_is_refused_by_field(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await puppet.live(facts={**FACTS, "endpoints": list(ENDPOINTS)})
    for path, body, param in WRONG:
        got = await http.post(path, json={"model": "puppet", **body})
        assert (got.status_code, got.json()["error"]["param"]) == (400, param), got.text
    assert await puppet.waiting() == 0


async def test_a_model_that_chats_is_no_reranker(http: httpx.AsyncClient, puppet: Puppet) -> None:
    for known, body in BODIES.items():
        for path in (known, *ENDPOINTS[known].aliases):
            got = await http.post(path, json={"model": "puppet", **body})
            assert got.status_code == 400
            assert f"does not do {known}; it does /v1/chat/completions" in got.json()["error"]["message"]
    assert await puppet.waiting() == 0


async def test_a_thousand_documents_cost_what_they_are(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await puppet.live(facts={"endpoints": ["/v1/rerank"]})
    body: dict[str, Any] = {"model": "puppet", "query": "q" * 398}
    costs = []
    for documents in (["d" * 40] * 1000, "d"):
        asked = {"endpoint": "/v1/rerank", "input": {**body, "documents": documents}}
        assert (await http.post("/v1/jobs", json=asked)).status_code == 202
        claim = await puppet.take()
        costs.append(int(await puppet.store.client.hget(puppet.store.keys("job", claim.id), "cost")))
        await puppet.succeed(claim)
    assert 100_000 < costs[0] < 120_000  # a query of 400 bytes with each, and the documents themselves
    assert 100 < costs[1] < 150


@pytest.fixture
def upstream() -> Any:
    """Another server: it answers with the path that it was asked for, or as a framework that lacks the path."""
    answers: dict[str, tuple[int, str, bytes]] = {}

    def answer(body: dict[str, Any]) -> tuple[int, str, bytes]:
        return answers.get(str(body.get("query")), (200, "application/json", json.dumps(body).encode()))

    with Upstream(answer, paths=("/rerank",)) as server:
        answers["lost"] = (404, "application/json", b'{"detail":"Not Found"}')
        answers["html"] = (405, "text/html", b"<html>405</html>")
        answers["wrong"] = (
            422,
            "application/json",
            b'{"detail":[{"loc":["body","top_n"],"msg":"no number"}]}',
        )
        yield server


async def test_another_server_is_asked_at_its_own_path(
    http: httpx.AsyncClient, work: Callable, upstream: Upstream
) -> None:
    await work(engine="openai", openai_base_url=upstream.url, openai_endpoints=["/v1/rerank"])

    async def ask(query: str) -> httpx.Response:
        return await http.post("/v1/rerank", json={"model": "upstream", "query": query, "documents": ["d"]})

    good = await ask("water")
    assert (good.status_code, good.json()["query"]) == (200, "water")
    for query in ("lost", "html"):
        got = await ask(query)
        error = got.json()["error"]
        assert (got.status_code, error["code"]) == (400, "unsupported")
        assert "does not serve this endpoint" in error["message"]
    wrong = await ask("wrong")
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (422, "body.top_n: no number")
    unknown = await http.post("/v1/score", json={"model": "upstream", "text_1": "a", "text_2": "b"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unsupported")


async def test_quotas_settle_by_the_answers_own_count(http: httpx.AsyncClient, work: Callable) -> None:
    await work()
    await http.put("/v1/admin/tenants/default", json={"tokens_per_day": 1_000_000})

    async def used() -> int:
        return int((await http.get("/v1/admin/tenants/default")).json()["used"]["tokens_today"])

    spent = 0
    for path, asked in BODIES.items():
        got = await http.post(path, json={"model": "simulated", **asked})
        tokens = got.json().get("usage", {}).get("prompt_tokens")
        now = await used()
        assert now - spent == (tokens or 1), path  # the tokenizer alone costs next to nothing
        spent = now


async def test_messages_run_as_calls_jobs_and_rows(
    http: httpx.AsyncClient, client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    path = "/v1/messages"
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    # As it is written in a row: the simulated text depends on every byte.
    called = (await http.post(path, content=json.dumps(body))).json()
    assert (called["type"], called["stop_reason"], called["usage"]["output_tokens"]) == (
        "message",
        "max_tokens",
        5,
    )
    asked = json.dumps({"endpoint": path, "input": body})
    job = (await http.post("/v1/jobs", content=asked, params={"wait": 10})).json()
    assert told(job["result"]) == told(called)
    assert (job["usage"]["prompt_tokens"], job["usage"]["completion_tokens"]) == (
        called["usage"]["input_tokens"],
        5,
    )
    rows = [{"custom_id": "r", "method": "POST", "url": path, "body": body}]
    batch = await ended(client, (await create(client, rows, endpoint=path)).id)
    (line,) = await lines(client, batch.output_file_id)
    assert told(line["response"]["body"]) == told(called)
    assert batch.usage.output_tokens == 5
