"""Conversations: OpenAI's own client against a real api."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from broker.conversations import ConversationStore
from broker.db.errors import ConversationBusyError, NoConversationError
from broker.jobs import JobStore
from jobs.model import JobSpec, Place
from tests.apiserver import ApiServer
from tests.puppet import MODEL, Puppet
from tests.support import new_id

pytestmark = pytest.mark.asyncio

HELLO: Any = {"type": "message", "role": "user", "content": "hello"}


@pytest_asyncio.fixture
async def sdk(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def conversations(store: JobStore) -> ConversationStore:
    return ConversationStore(store, 1_000_000)


async def test_a_conversation_is_made_read_changed_and_deleted(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create(metadata={"topic": "demo"}, items=[HELLO])
    assert (made.object, made.metadata) == ("conversation", {"topic": "demo"})
    assert await sdk.conversations.retrieve(made.id) == made
    changed = await sdk.conversations.update(made.id, metadata={"topic": "other"})
    assert (changed.id, changed.created_at, changed.metadata) == (
        made.id,
        made.created_at,
        {"topic": "other"},
    )
    assert await sdk.conversations.retrieve(made.id) == changed
    deleted = await sdk.conversations.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
    for call in (sdk.conversations.retrieve, sdk.conversations.delete, sdk.conversations.items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(made.id)
        assert caught.value.code == "conversation_not_found"


async def test_items_have_stable_ids_and_come_in_pages(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create()
    added: list[Any] = []
    for n in range(3):
        got = await sdk.conversations.items.create(
            made.id,
            items=[
                {"role": "user", "content": f"question {n}"},
                {"type": "message", "role": "assistant", "content": f"answer {n}"},
            ],
        )
        added += got.data
    texts = [item.content[0].text for item in added]
    assert texts == [f"{kind} {n}" for n in range(3) for kind in ("question", "answer")]
    assert {(item.type, item.status) for item in added} == {("message", "completed")}
    assert [item.content[0].type for item in added[:2]] == ["input_text", "output_text"]
    oldest = [item async for item in await sdk.conversations.items.list(made.id, order="asc", limit=2)]
    assert oldest == added
    newest = [item async for item in sdk.conversations.items.list(made.id, limit=4)]
    assert newest == added[::-1]
    assert await sdk.conversations.items.retrieve(added[0].id, conversation_id=made.id) == added[0]


async def test_a_conversation_takes_no_more_than_a_request(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create(items=[HELLO])
    large: Any = {"role": "user", "content": "x" * 900}
    for _ in range(3):
        await sdk.conversations.items.create(made.id, items=[large])
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.conversations.items.create(made.id, items=[large])
    assert (caught.value.code, caught.value.param) == ("conversation_full", "items")
    assert len([item async for item in sdk.conversations.items.list(made.id)]) == 4
    many: Any = [{"role": "user", "content": "x" * 190} for _ in range(16)]
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.conversations.create(items=many)
    assert caught.value.code == "conversation_full"


async def test_a_conversation_is_read_without_its_items(
    sdk: openai.AsyncOpenAI, conversations: ConversationStore
) -> None:
    made = await sdk.conversations.create(items=[HELLO])
    whole = await conversations.get(made.id)
    assert whole is not None
    assert len(whole.added) == 1
    assert await conversations.get(made.id, items=False) == replace(whole, added=[])
    assert await conversations.get(made.id, owner="another", items=False) is None


async def test_an_item_that_is_deleted_is_gone(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.conversations.create(items=[HELLO, HELLO])
    one, other = [item.id async for item in sdk.conversations.items.list(made.id, order="asc")]
    assert (await sdk.conversations.items.delete(str(one), conversation_id=made.id)).id == made.id
    assert [item.id async for item in sdk.conversations.items.list(made.id)] == [other]
    for call in (sdk.conversations.items.retrieve, sdk.conversations.items.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(str(one), conversation_id=made.id)
        assert caught.value.code == "item_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [{"content": "x"}]}, "items"),
        ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items"),
        ({"items": [{"role": "user", "content": 1}]}, "items"),
        ({"items": [{**HELLO, "id": "with spaces"}]}, "items"),
        ({"items": [{**HELLO, "id": "twice"}] * 2}, "items"),
        ({"items": [HELLO] * 21}, "items"),
        ({"items": "x"}, "items"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"name": "x"}, "name"),
    ],
)
async def test_a_wrong_body_is_refused(http: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    got = await http.post("/v1/conversations", json=body)
    assert (got.status_code, got.json()["error"]["param"]) == (400, param)


async def test_an_id_that_is_taken_is_refused(http: httpx.AsyncClient) -> None:
    made = (await http.post("/v1/conversations", json={"items": [{**HELLO, "id": "mine"}]})).json()
    path = f"/v1/conversations/{made['id']}/items"
    got = await http.post(path, json={"items": [{**HELLO, "id": "mine"}]})
    assert (got.status_code, got.json()["error"]["code"]) == (400, "invalid_value")
    got = await http.get(path, params={"after": "other"})
    assert (got.status_code, got.json()["error"]["param"]) == (400, "after")


def spec(place: Place) -> JobSpec:
    return JobSpec(new_id(), "/v1/responses", MODEL, b"{}", conversation=place)


async def test_one_job_at_a_time_continues_a_conversation(
    conversations: ConversationStore, puppet: Puppet
) -> None:
    store = puppet.store
    made = await conversations.create("conv_1", "default", {}, [HELLO])
    first = spec(made.place)
    await store.accept(first)
    with pytest.raises(ConversationBusyError) as caught:
        await store.accept(spec(made.place))
    assert caught.value.by == first.id
    assert await conversations.add(made.id, [HELLO, HELLO])  # while it runs: they follow its answer
    claim = await puppet.take()
    with pytest.raises(ConversationBusyError):
        await store.accept(spec(made.place))
    await puppet.succeed(claim)
    read = await conversations.get(made.id)
    assert read is not None
    assert (read.last, read.added, read.turn, read.parts) == (first.id, [HELLO, HELLO], 1, 2)
    with pytest.raises(ConversationBusyError):
        await store.accept(spec(made.place))  # it was made from what the conversation was before
    await store.accept(spec(read.place))


async def test_a_job_that_fails_or_is_cancelled_leaves_the_conversation_as_it_was(
    conversations: ConversationStore, puppet: Puppet
) -> None:
    made = await conversations.create("conv_1", "default", {}, [HELLO])
    one = spec(made.place)
    await puppet.store.accept(one)
    await puppet.store.cancel(one.id)
    assert await conversations.get(made.id) == made
    await puppet.store.accept(spec(made.place))


async def test_a_job_in_a_conversation_that_is_deleted_meanwhile_ends_all_the_same(
    conversations: ConversationStore, puppet: Puppet
) -> None:
    made = await conversations.create("conv_1", "default", {}, [HELLO])
    await puppet.store.accept(spec(made.place))
    claim = await puppet.take()
    assert await conversations.delete(made.id)
    await puppet.succeed(claim)
    assert await conversations.get(made.id) is None


async def test_another_tenants_conversation_does_not_exist(
    conversations: ConversationStore, store: JobStore
) -> None:
    made = await conversations.create("conv_1", "other", {}, [HELLO])
    with pytest.raises(NoConversationError):
        await store.accept(spec(made.place))
    assert await conversations.get(made.id, owner="default") is None
    assert not await conversations.add(made.id, [HELLO], owner="default")
    assert not await conversations.update(made.id, {}, owner="default")
    assert not await conversations.drop(made.id, "x", owner="default")
    assert await conversations.fold(made.place, [], owner="default") is None
    assert not await conversations.delete(made.id, owner="default")
    assert await conversations.get(made.id) == made


async def test_a_fold_keeps_the_items_and_forgets_the_job(
    conversations: ConversationStore, puppet: Puppet
) -> None:
    made = await conversations.create("conv_1", "default", {}, [HELLO])
    await puppet.store.accept(spec(made.place))
    await puppet.succeed(await puppet.take())
    read = await conversations.get(made.id)
    assert read is not None
    assert await conversations.add(made.id, [HELLO])
    assert await conversations.fold(read.place, [HELLO]) is False
    read = await conversations.get(made.id)
    assert read is not None
    items = [{**HELLO, "id": f"{n}"} for n in range(3)]
    assert await conversations.fold(read.place, items)
    folded = await conversations.get(made.id)
    assert folded is not None
    assert (folded.last, folded.added) == (None, items)


async def test_a_change_that_the_client_library_sends_twice_is_made_once(
    conversations: ConversationStore, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = store.functions.call

    async def twice(*args: Any) -> Any:
        await call(*args)
        return await call(*args)

    made = await conversations.create("conv_1", "default", {}, [HELLO])
    monkeypatch.setattr(store.functions, "call", twice)
    assert await conversations.add(made.id, [HELLO])
    assert await conversations.add(made.id, [HELLO])  # the same again, on purpose
    monkeypatch.undo()
    read = await conversations.get(made.id)
    assert read is not None
    assert read.added == [HELLO] * 3


async def test_a_use_keeps_the_conversation_and_its_last_response(
    conversations: ConversationStore, puppet: Puppet
) -> None:
    """Both go at the same time: the record of the job has the items."""
    store, keys = puppet.store, puppet.store.keys
    made = await conversations.create("conv_1", "default", {}, [HELLO])
    job = spec(made.place)
    await store.accept(job)
    await puppet.succeed(await puppet.take())

    async def left() -> tuple[int, Any]:
        ended = await store.client.zscore(keys("ended", "succeeded"), job.id)
        return await store.client.pttl(keys("conversation", made.id)), ended

    await store.client.pexpire(keys("conversation", made.id), 60_000)
    _, before = await left()
    await asyncio.sleep(0.002)
    assert await conversations.add(made.id, [HELLO])
    life, after = await left()
    assert life > store.retention_ms - 10_000
    assert after > before
