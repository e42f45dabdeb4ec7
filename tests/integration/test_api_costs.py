"""A job's cost in its tenant's turns is what its request says: the prompt's tokens, and those of its answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from jobs.model import Usage
from tests.puppet import FACTS, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
TALK: dict[str, Any] = {"model": "puppet", "messages": [{"role": "user", "content": "hello there"}]}
UNKNOWN = 128
"""Completion tokens of an answer of which nothing is known, as in ``broker/lua/4_accept.lua``."""


async def cost(http: httpx.AsyncClient, puppet: Puppet, endpoint: str, request: dict[str, Any]) -> int:
    job = (await http.post("/v1/jobs", json={"endpoint": endpoint, "input": request})).json()
    found: Any = await puppet.store.client.hget(puppet.store.keys("job", job["id"]), "cost")
    return int(found)


def from_bytes(request: dict[str, Any]) -> int:
    return len(json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode()) // 4


@pytest.mark.parametrize(
    ("endpoint", "fields", "answers"),
    [
        (CHAT, {}, UNKNOWN),
        (CHAT, {"max_tokens": 5}, 5),
        (CHAT, {"max_completion_tokens": 5, "n": 3}, 15),
        (CHAT, {"max_tokens": 100_000}, UNKNOWN),
    ],
)
async def test_a_conversation(
    http: httpx.AsyncClient, puppet: Puppet, endpoint: str, fields: dict[str, Any], answers: int
) -> None:
    request = TALK | fields
    assert await cost(http, puppet, endpoint, request) == from_bytes(request) + answers


@pytest.mark.parametrize(
    ("prompt", "tokens"), [([1, 2, 3], 3 + 4), ([[1, 2, 3], [4, 5]], 5 + 2 * 4)], ids=["one", "two"]
)
async def test_token_ids(http: httpx.AsyncClient, puppet: Puppet, prompt: list[Any], tokens: int) -> None:
    request = {"model": "puppet", "prompt": prompt, "max_tokens": 4}
    assert await cost(http, puppet, COMPLETIONS, request) == tokens


async def test_an_embedding_generates_nothing(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await Puppet(puppet.store, "embeds", "vectors").live("e", facts=FACTS | {"endpoints": [EMBEDDINGS]})
    request = {"model": "e", "input": ["some text", "and more"]}

    async def known() -> bool:
        return "e" in {one["id"] for one in (await http.get("/v1/models")).json()["data"]}

    await eventually(known)
    assert await cost(http, puppet, EMBEDDINGS, request) == from_bytes(request)


async def test_a_number_without_bound_is_no_fault(http: httpx.AsyncClient, puppet: Puppet) -> None:
    request = TALK | {"n": 10**30, "max_tokens": 1}
    assert await cost(http, puppet, CHAT, request) == from_bytes(request) + 1024


async def test_the_mean_of_earlier_answers_is_that_of_one(http: httpx.AsyncClient, puppet: Puppet) -> None:
    await http.post("/v1/jobs", json={"endpoint": CHAT, "input": TALK | {"n": 4}})
    await puppet.succeed(await puppet.take(), usage=Usage(3, 200, 203))
    assert await cost(http, puppet, CHAT, TALK) == from_bytes(TALK) + 50
