"""Responses in a conversation: what each continues, what it leaves behind, and one at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from broker.claims import Claim
from jobs.failures import FailureCode
from jobs.model import JobError
from tests.integration.test_responses import answer, client, ident, worker
from tests.puppet import MODEL, Puppet

__all__ = ["client", "worker"]  # fixtures

pytestmark = pytest.mark.asyncio


def texts(items: list[Any]) -> list[str]:
    """Return the texts of items, or of the SDK's models of them."""
    plain = [item if isinstance(item, dict) else item.model_dump() for item in items]
    return [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"] for item in plain
    ]


async def listed(client: openai.AsyncOpenAI, conversation: str) -> list[Any]:
    return [one async for one in client.conversations.items.list(conversation, order="asc", limit=3)]


async def respond(
    client: openai.AsyncOpenAI, worker: Puppet, conversation: Any, said: str, answered: str, **more: Any
) -> Claim:
    """Have a response in a conversation; return its job."""
    asking = asyncio.ensure_future(
        client.responses.create(model=MODEL, input=said, conversation=conversation, **more)
    )
    claim = await worker.take()
    await worker.succeed(claim, json.dumps(answer(claim, answered)).encode())
    assert (await asking).conversation is not None
    return claim


def context(claim: Claim) -> list[str]:
    body = json.loads(claim.body)
    assert "conversation" not in body
    return [body["input"]] if isinstance(body["input"], str) else texts(body["input"])


async def test_each_response_continues_the_conversation(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    talk = (await client.conversations.create(items=[{"role": "user", "content": "zero"}])).id
    first = await respond(client, worker, talk, "one", "ONE")
    assert context(first) == ["zero", "one"]
    items = await listed(client, talk)
    assert texts(items) == ["zero", "one", "ONE"]
    await client.conversations.items.create(talk, items=[{"role": "user", "content": "added"}])
    second = await respond(client, worker, {"id": talk}, "two", "TWO")
    assert context(second) == ["zero", "one", "ONE", "added", "two"]
    now = await listed(client, talk)
    assert texts(now) == ["zero", "one", "ONE", "added", "two", "TWO"]
    assert now[:3] == items, "items keep their ids"
    assert len({item.id for item in now}) == 6
    one = await client.conversations.items.retrieve(now[1].id, conversation_id=talk)
    assert one == now[1]


async def test_a_deleted_item_of_a_response_is_not_continued(
    client: openai.AsyncOpenAI, worker: Puppet
) -> None:
    talk = (await client.conversations.create()).id
    await respond(client, worker, talk, "one", "ONE")
    one, other = await listed(client, talk)
    await client.conversations.items.delete(one.id, conversation_id=talk)
    assert await listed(client, talk) == [other]
    assert context(await respond(client, worker, talk, "two", "TWO")) == ["ONE", "two"]
    assert texts(await listed(client, talk)) == ["ONE", "two", "TWO"]


async def test_what_a_response_took_makes_room_for_more(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    large: Any = {"role": "user", "content": "x" * 1500}
    talk = (await client.conversations.create(items=[large])).id
    await client.conversations.items.create(talk, items=[large])
    with pytest.raises(openai.BadRequestError) as caught:
        await client.conversations.items.create(talk, items=[large])
    assert caught.value.code == "conversation_full"
    await respond(client, worker, talk, "one", "ONE")
    await client.conversations.items.create(talk, items=[large])
    assert len(await listed(client, talk)) == 5


async def test_a_deleted_response_leaves_its_items(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    talk = (await client.conversations.create(items=[{"role": "user", "content": "zero"}])).id
    first = await respond(client, worker, talk, "one", "ONE")
    before = await listed(client, talk)
    await client.responses.delete(ident(first))
    assert await listed(client, talk) == before
    assert context(await respond(client, worker, talk, "two", "TWO")) == ["zero", "one", "ONE", "two"]


async def test_another_response_must_wait(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    talk = (await client.conversations.create()).id
    running = await client.responses.create(model=MODEL, input="one", conversation=talk, background=True)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="two", conversation=talk)
    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
    claim = await worker.take()
    assert ident(claim) == running.id
    await worker.fail(claim, JobError(FailureCode.ENGINE_ERROR, "broken"))
    assert await listed(client, talk) == [], "a response that failed leaves nothing"
    assert context(await respond(client, worker, talk, "two", "TWO")) == ["two"]


async def test_a_response_that_another_one_continues_is_not_deleted(
    client: openai.AsyncOpenAI, worker: Puppet
) -> None:
    talk = (await client.conversations.create(items=[{"role": "user", "content": "zero"}])).id
    first = await respond(client, worker, talk, "one", "ONE")
    await client.conversations.items.create(talk, items=[{"role": "user", "content": "added"}])
    await client.responses.create(model=MODEL, input="two", conversation=talk, background=True)
    with pytest.raises(openai.ConflictError) as caught:
        await client.responses.delete(ident(first))
    assert caught.value.code == "conversation_locked"
    second = await worker.take()
    await client.conversations.items.create(talk, items=[{"role": "user", "content": "late"}])
    await worker.succeed(second, json.dumps(answer(second, "TWO")).encode())
    whole = ["zero", "one", "ONE", "added", "two", "TWO", "late"]
    assert texts(await listed(client, talk)) == whole
    await client.responses.delete(ident(first))
    await client.responses.delete(ident(second))
    assert texts(await listed(client, talk)) == whole
    assert context(await respond(client, worker, talk, "three", "THREE")) == [*whole, "three"]


async def test_a_repeated_request_is_the_same_response(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    talk = (await client.conversations.create()).id
    keyed: dict[str, Any] = {"extra_headers": {"idempotency-key": "k-1"}}
    claim = await respond(client, worker, talk, "one", "ONE", **keyed)
    again = await client.responses.create(model=MODEL, input="one", conversation=talk, **keyed)
    assert again.id == ident(claim)
    assert texts(await listed(client, talk)) == ["one", "ONE"]
    with pytest.raises(openai.ConflictError):
        await client.responses.create(model=MODEL, input="two", conversation=talk, **keyed)


async def test_what_cannot_be_continued_is_refused(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    talk = (await client.conversations.create()).id

    async def refused(**more: Any) -> tuple[int, str, str]:
        got = await http.post("/v1/responses", json={"model": MODEL, "input": "x", **more})
        error = got.json()["error"]
        return got.status_code, error["code"], error["param"]

    missing = f"conv_{7:032x}"
    for wrong in (missing, {"id": missing}, "x"):
        assert await refused(conversation=wrong) == (404, "conversation_not_found", "conversation")
    both = await refused(conversation=talk, previous_response_id=f"resp_job_{7:032x}")
    assert both == (400, "mutually_exclusive_parameters", "previous_response_id")
    assert await refused(conversation=talk, store=False) == (400, "invalid_request", "conversation")
    assert await refused(conversation={"name": "x"}) == (400, "invalid_value", "conversation")
