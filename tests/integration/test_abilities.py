"""What a model cannot do is refused by every face, before it is queued. The list of models says what each can do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from broker.jobs import JobStore
from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.batching import create, ended, row
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.puppet import FACTS, Puppet

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

TEXT_ONLY = Capabilities(
    tasks=("generate",), images=0, audios=0, videos=0, structured_output=True, speculation="ngram"
)
MODEL = "texts"
"""A name that no other test registers, so no api has read another record of it."""

LISTED = [CHAT, COMPLETIONS, MESSAGES, RESPONSES]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SEEN = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
TOOL = {"type": "function", "function": {"name": "gate"}}


def say(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts) or "hi"}], "max_tokens": 4}


async def text_only(store: JobStore) -> None:
    facts = {**FACTS, "endpoints": LISTED, "capabilities": TEXT_ONLY.said(), "engine": "vllm"}
    await Puppet(store, "texts-1", "texts").live(MODEL, facts=facts)


REFUSED = [
    (CHAT, say(IMAGE), "messages"),
    (CHAT, {**say(), "tools": [TOOL]}, "tools"),
    (CHAT, {**say(), "min_p": 0.5}, "min_p"),
    (COMPLETIONS, {"prompt": "x", "min_p": 0.5}, "min_p"),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input",
    ),
    (MESSAGES, say(SEEN), "messages"),
    ("/v1/embeddings", {"input": "x"}, "model"),
]


async def test_calls_and_jobs_are_refused_before_they_are_queued(
    http: httpx.AsyncClient, store: JobStore
) -> None:
    await text_only(store)
    for endpoint, body, param in REFUSED:
        asked = {"model": MODEL, **body}
        call = await http.post(endpoint, json=asked)
        error = call.json()["error"]
        assert call.status_code == 400, call.text
        if endpoint == MESSAGES:  # Anthropic's form has no code
            assert error["type"] == "invalid_request_error"
        else:
            assert (error["code"], error["param"]) == ("unsupported", param)
        job = await http.post("/v1/jobs", json={"endpoint": endpoint, "input": asked})
        refused = job.json()["error"]
        assert (job.status_code, refused["code"]) == (400, "unsupported")
        assert refused["param"].removeprefix("input.") == param
        assert refused["message"] == error["message"]
    assert sum((await store.depths(["texts"])).values()) == 0


async def test_the_list_of_models_says_what_each_can_do(http: httpx.AsyncClient, store: JobStore) -> None:
    await text_only(store)
    card = (await http.get("/v1/models/texts")).json()
    assert card["penstock"]["endpoints"] == LISTED
    assert card["penstock"]["capabilities"] == json.loads(json.dumps(TEXT_ONLY.said()))
    listed = (await http.get("/v1/models")).json()["data"]
    assert card in listed


async def test_rows_are_refused_when_their_batch_is_validated(
    client: openai.AsyncOpenAI, store: JobStore
) -> None:
    await text_only(store)
    rows: list[Any] = [row(n, model=MODEL) for n in range(4)]
    rows[1]["body"]["messages"][0]["content"] = [IMAGE]
    rows[3]["body"]["min_p"] = 0.5
    batch = await ended(client, (await create(client, rows)).id)
    assert batch.status == "failed"
    found = [(one.code, one.line, one.param) for one in batch.errors.data]
    assert found == [("unsupported", 2, "body.messages"), ("unsupported", 4, "body.min_p")]
    assert "takes no images" in batch.errors.data[0].message
    assert sum((await store.depths(["texts"])).values()) == 0


async def test_what_an_engine_does_not_say_is_left_to_it(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    rows = [row("image", model="simulated"), row("tools", model="simulated", tools=[TOOL], min_p=0.5)]
    rows[0]["body"]["messages"][0]["content"] = [IMAGE]
    batch = await ended(client, (await create(client, rows)).id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 2)
