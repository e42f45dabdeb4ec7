"""Responses: created, followed, resumed, continued, cancelled and deleted, as the openai SDK does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from broker.claims import Claim
from broker.settings import BrokerSettings
from jobs.endpoints import RESPONSES
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError
from jobs.states import JobState
from jobs.stream_chunks import Frames
from penstock._core.sse import ServerSentEvent, SSEParser
from tests.apiserver import ApiServer
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

MISSING = f"resp_job_{7:032x}"


@pytest_asyncio.fixture
async def worker(puppet: Puppet) -> Puppet:
    """The worker on strings, which serves Responses, as vLLM does: it runs no tools."""
    facts = {**FACTS, "endpoints": [RESPONSES], "max_model_len": 100_000, "engine": "vllm"}
    await puppet.live(facts=facts)
    return puppet


@pytest_asyncio.fixture
async def client(api: ApiServer, worker: Puppet) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="any", max_retries=0) as client:

        async def known() -> bool:  # the api may still have what the worker of the test before said
            card = (await client.models.retrieve(MODEL)).model_dump()
            return bool(card["penstock"]["endpoints"] == [RESPONSES])

        await eventually(known)
        yield client


def ident(claim: Claim) -> str:
    return f"resp_{claim.id}"


def message(text: str, name: str = "1") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "id": f"msg_{name}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }


def answer(claim: Claim, text: str = "hello", status: str = "completed", **more: Any) -> dict[str, Any]:
    """A response as an engine makes it: it knows nothing of what is ours."""
    return {
        "id": "resp_of_the_engine",
        "object": "response",
        "created_at": 5,
        "status": status,
        "model": MODEL,
        "output": [message(text, claim.id)],
        "background": False,
        "previous_response_id": None,
        "parallel_tool_calls": True,
        "tool_choice": "none",
        "tools": [],
        "usage": None,
        **more,
    }


def events(claim: Claim, *texts: str) -> list[str]:
    """The events that an engine sends before the last one."""
    begun = answer(claim, status="in_progress", output=[])
    sent: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *(
            {"type": "response.output_text.delta", "delta": text, "item_id": "msg_1", "output_index": 0}
            for text in texts
        ),
    ]
    return [json.dumps(event | {"sequence_number": number}) for number, event in enumerate(sent)]


def last(claim: Claim, number: int, **more: Any) -> str:
    return json.dumps(
        {"type": "response.completed", "response": answer(claim, **more), "sequence_number": number}
    )


async def succeed(worker: Puppet, claim: Claim, *texts: str, **more: Any) -> None:
    """Stream an answer, a part of it in one entry with others, and end the job."""
    sent = events(claim, *texts)
    await worker.say(claim, Frames(tuple(sent[:2])), *(Frames((event,)) for event in sent[2:]))
    tail = [Frames((last(claim, len(sent), text="".join(texts), **more),))]
    await worker.succeed(claim, json.dumps(answer(claim, "".join(texts), **more)).encode(), tail)


async def read(
    http: httpx.AsyncClient, ident: str, after: int | None = None, most: int = 10_000
) -> list[ServerSentEvent]:
    """Read events until the end of the stream, or ``most`` of them."""
    parser, found = SSEParser(""), []
    given = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
    async with http.stream("GET", f"/v1/responses/{ident}", params=given) as got:
        assert got.status_code == 200, await got.aread()
        async for data in got.aiter_bytes():
            found += parser.feed(data)
            if len(found) >= most:
                return found[:most]
    return found


def told(found: list[ServerSentEvent]) -> list[tuple[int, str]]:
    """The number and the type of each event; the name of an event is its type."""
    parsed = [json.loads(event.data) for event in found]
    assert [event.event for event in found] == [one["type"] for one in parsed]
    return [(one["sequence_number"], one["type"].removeprefix("response.")) for one in parsed]


async def gone(client: openai.AsyncOpenAI, name: str) -> None:
    """Wait until a response is no longer there: it is dropped when its answer was sent."""

    async def is_gone() -> bool:
        try:
            await client.responses.retrieve(name)
        except openai.NotFoundError:
            return True
        return False

    await eventually(is_gone)


# ---- the caller waits -----------------------------------------------------------------------------------------------


async def test_a_whole_response(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    asked = asyncio.ensure_future(client.responses.create(model=MODEL, input="hi", metadata={"a": "b"}))
    claim = await worker.take()
    assert json.loads(claim.body) == {"model": MODEL, "input": "hi", "metadata": {"a": "b"}}
    assert claim.lane is Lane.REALTIME
    await worker.succeed(claim, json.dumps(answer(claim)).encode())
    response = await asked
    assert (response.id, response.status, response.output_text) == (ident(claim), "completed", "hello")
    assert (response.background, response.store) == (False, True)  # type: ignore[attr-defined]
    again = await client.responses.retrieve(response.id)
    assert again == response
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        await client.responses.cancel(response.id)


async def test_a_stream_keeps_the_engines_numbers_and_can_be_read_again(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    stream = asyncio.ensure_future(client.responses.create(model=MODEL, input="hi", stream=True))
    claim = await worker.take()
    await succeed(worker, claim, "a", "b", status="incomplete")
    found = [event async for event in await stream]
    assert [event.type for event in found] == [
        "response.created",
        "response.in_progress",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.incomplete",  # vLLM calls it completed
    ]
    assert [event.sequence_number for event in found] == [0, 1, 2, 3, 4]
    end: Any = found[-1]
    assert (end.response.id, end.response.status, end.response.store) == (ident(claim), "incomplete", True)
    whole = await read(http, ident(claim))
    assert [number for number, _ in told(whole)] == [0, 1, 2, 3, 4]
    for after in range(5):
        assert await read(http, ident(claim), after) == whole[after + 1 :]


async def test_a_caller_learns_that_its_worker_was_lost_after_output(
    client: openai.AsyncOpenAI, worker: Puppet
) -> None:
    stream = asyncio.ensure_future(client.responses.create(model=MODEL, input="hi", stream=True))
    claim = await worker.take()
    await worker.say(claim, Frames(tuple(events(claim, "a"))))
    got = aiter(await stream)
    found = [(await anext(got)).type for _ in range(3)]
    assert found == ["response.created", "response.in_progress", "response.output_text.delta"]
    await worker.store.release(claim, worker.name, "released")
    await worker.take()
    with pytest.raises(openai.APIError, match="the worker was lost after part of the answer"):
        await anext(got)


async def test_an_unstored_response_is_gone(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    asked = asyncio.ensure_future(client.responses.create(model=MODEL, input="hi", store=False))
    claim = await worker.take()
    assert json.loads(claim.body)["store"] is False, "an upstream must not store it either"
    await worker.succeed(claim, json.dumps(answer(claim)).encode())
    response = await asked
    assert response.store is False  # type: ignore[attr-defined]

    await gone(client, response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="more", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"


# ---- in the background ----------------------------------------------------------------------------------------------


async def test_a_stream_whose_response_was_dropped_ends_with_an_error(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    queued = await client.responses.create(model=MODEL, input="hi", background=True, stream=True)
    claim = await worker.take()
    await succeed(worker, claim, "a")
    await queued.close()
    await worker.store.client.hdel(worker.store.keys("job", claim.id), "result")
    *_, end = await read(http, ident(claim))
    assert (end.event, json.loads(end.data)["code"]) == ("error", "response_not_found")


async def test_a_background_response_through_its_states(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    queued = await client.responses.create(
        model=MODEL, input="hi", background=True, instructions="be kind", tools=[tool], max_output_tokens=9
    )
    assert (queued.status, queued.background, queued.output, queued.model) == ("queued", True, [], MODEL)
    assert (queued.instructions, queued.max_output_tokens, queued.tools[0].type) == (
        "be kind",
        9,
        "function",
    )
    assert await client.responses.retrieve(queued.id) == queued
    claim = await worker.take()
    assert ident(claim) == queued.id
    assert claim.lane is Lane.NORMAL
    assert claim.left_ms is None, "it has no time limit"
    assert "background" not in json.loads(claim.body)
    assert (await client.responses.retrieve(queued.id)).status == "in_progress"
    await worker.succeed(claim, json.dumps(answer(claim)).encode())
    done = await client.responses.retrieve(queued.id)
    assert (done.status, done.background, done.output_text) == ("completed", True, "hello")
    assert done.created_at == queued.created_at
    assert done.completed_at is not None
    assert done.completed_at >= done.created_at
    assert queued.completed_at is None


async def test_an_answer_says_what_openais_says(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    """What no engine repeats, as it is ours; the name of the end user is nowhere in clear."""
    asked = asyncio.ensure_future(
        client.responses.create(
            model=MODEL,
            input="hi",
            safety_identifier="ann@example.com",
            prompt_cache_key="k",
            service_tier="auto",
        )
    )
    claim = await worker.take()
    assert b"ann@" not in claim.body
    await worker.succeed(claim, json.dumps(answer(claim)).encode())
    response = await asked
    assert (response.error, response.prompt_cache_key, response.service_tier) == (None, "k", "default")
    assert response.safety_identifier == json.loads(claim.body)["safety_identifier"]
    assert response.completed_at is not None


async def test_tiers_choose_the_lane_of_a_background_response(
    client: openai.AsyncOpenAI, worker: Puppet
) -> None:
    for tier, lane in (("flex", Lane.LOW), ("default", Lane.NORMAL), ("priority", Lane.HIGH)):
        given: Any = {"service_tier": tier}
        response = await client.responses.create(model=MODEL, input="hi", background=True, **given)
        assert response.service_tier == tier
        assert (await worker.take()).lane is lane


async def test_a_failed_one_says_why_and_keeps_what_there_is(
    client: openai.AsyncOpenAI, worker: Puppet
) -> None:
    queued = await client.responses.create(model=MODEL, input="hi", background=True)
    claim = await worker.take()
    error = JobError(FailureCode.TIMEOUT, "it took too long")
    await worker.store.finish(
        claim,
        worker.name,
        JobState.FAILED,
        error=error,
        partial=json.dumps(answer(claim, "so far", "incomplete")).encode(),
    )
    failed = await client.responses.retrieve(queued.id)
    assert (failed.status, failed.output_text, failed.incomplete_details) == ("failed", "so far", None)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("timeout", "it took too long")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="more", previous_response_id=queued.id)
    assert refused.value.code == "previous_response_not_completed"


async def test_a_background_stream_is_the_same_for_every_reader(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient, broker_settings: BrokerSettings
) -> None:
    stream = await client.responses.create(model=MODEL, input="hi", background=True, stream=True)
    first: Any = await anext(aiter(stream))
    await stream.close()  # its reader leaves, and the job goes on
    assert (first.type, first.sequence_number, first.response.status) == ("response.created", 0, "queued")
    name = first.response.id
    live = asyncio.ensure_future(read(http, name))
    claim = await worker.take()
    await worker.say(claim, *(Frames((event,)) for event in events(claim, "lost", "too")))
    await worker.say(
        claim, Frames((last(claim, 4),))
    )  # it was whole, but the worker was lost before it said so
    await worker.store.release(claim, worker.name, "released")
    claim = await worker.take()
    resumed = asyncio.ensure_future(read(http, name, 4))
    await succeed(worker, claim, "a", "b", "c")
    whole = await live
    names = "created queued in_progress output_text.delta output_text.delta"
    names += " queued in_progress output_text.delta output_text.delta output_text.delta completed"
    assert told(whole) == list(enumerate(names.split()))
    assert await resumed == whole[5:]
    for after in range(len(whole) + 1):
        assert await read(http, name, after) == whole[after + 1 :], after
    with ApiServer(broker_settings) as other:  # another process, or the same one after its restart
        async with other.client() as http_there:
            assert await read(http_there, name, 2) == whole[3:]
    end = json.loads(whole[-1].data)["response"]
    assert end == (await http.get(f"/v1/responses/{name}")).json()
    for event in whole:
        assert json.loads(event.data).get("response", end)["id"] == name


async def test_a_stream_whose_engine_does_not_stream(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    stream = await client.responses.create(model=MODEL, input="hi", background=True, stream=True)
    claim = await worker.take()
    await worker.succeed(claim, json.dumps(answer(claim)).encode())
    assert [event.type async for event in stream] == [
        f"response.{name}" for name in ("created", "queued", "completed")
    ]


async def test_a_cancelled_one(client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient) -> None:
    waits = await client.responses.create(model=MODEL, input="hi", background=True)
    for _ in range(2):
        cancelled = await client.responses.cancel(waits.id)
        assert (cancelled.id, cancelled.status, cancelled.error) == (waits.id, "cancelled", None)
    stream = await client.responses.create(model=MODEL, input="hi", background=True, stream=True)
    claim = await worker.take()
    await worker.say(claim, Frames(tuple(events(claim, "a"))))
    asked = asyncio.ensure_future(client.responses.cancel(ident(claim)))

    async def ordered() -> bool:
        return claim.id in await worker.beat()

    await eventually(ordered)
    partial = json.dumps(answer(claim, "a", "incomplete")).encode()
    await worker.store.finish(claim, worker.name, JobState.CANCELLED, partial=partial)
    cancelled = await asked
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "a")
    assert [event.type async for event in stream][-1] == "response.failed"  # SDKs know no event for it
    assert json.loads((await read(http, ident(claim)))[-1].data)["response"]["status"] == "cancelled"


async def test_an_idempotency_key_gives_the_same_response(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    key = {"Idempotency-Key": "once"}
    first = await client.responses.create(model=MODEL, input="hi", background=True, extra_headers=key)
    again = await client.responses.create(model=MODEL, input="hi", background=True, extra_headers=key)
    assert again == first
    assert await worker.waiting() == 1
    with pytest.raises(openai.ConflictError) as refused:
        await client.responses.create(model=MODEL, input="else", background=True, extra_headers=key)
    assert refused.value.code == "idempotency_conflict"


async def test_jobs_are_responses_too(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    body = {"endpoint": RESPONSES, "input": {"model": MODEL, "input": "hi", "stream": True}}
    job = (await http.post("/v1/jobs", json=body)).json()
    name = f"resp_{job['id']}"
    assert (await client.responses.retrieve(name)).status == "queued"
    await succeed(worker, await worker.take(), "a")
    done = await client.responses.retrieve(name)
    assert (done.status, done.background) == ("completed", True)
    assert (await http.get(f"/v1/jobs/{job['id']}")).json()["result"]["id"] == name
    assert len(await read(http, name)) == 5


async def test_an_unstored_job_is_kept_until_its_answer_was_fetched(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    asked = {"model": MODEL, "input": "hi", "stream": True}
    job = (await http.post("/v1/jobs", json={"endpoint": RESPONSES, "input": asked, "store": False})).json()
    name = f"resp_{job['id']}"
    assert (await client.responses.retrieve(name)).status == "queued"
    await succeed(worker, await worker.take(), "a")
    assert told(await read(http, name))[-1] == (4, "completed")
    await gone(client, name)


async def test_a_repeated_one_is_a_response_of_its_own(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    first = await client.responses.create(model=MODEL, input="hi", background=True)
    await client.responses.cancel(first.id)
    again = (await http.post(f"/v1/jobs/{first.id.removeprefix('resp_')}/retry")).json()["id"]
    claim = await worker.take()
    assert claim.id == again
    await worker.succeed(claim, json.dumps(answer(claim)).encode())
    assert (await client.responses.retrieve(ident(claim))).id == ident(claim)
    assert (await client.responses.cancel(ident(claim))).status == "completed"


# ---- chains ---------------------------------------------------------------------------------------------------------


async def test_a_chain_has_its_whole_context(client: openai.AsyncOpenAI, worker: Puppet) -> None:
    previous, said = None, []
    for turn in ("one", "two", "three"):
        asked = asyncio.ensure_future(
            client.responses.create(
                model=MODEL,
                input=turn if turn != "two" else [{"role": "user", "content": turn}],
                instructions=f"do {turn}",
                previous_response_id=previous,
            )
        )
        claim = await worker.take()
        body = json.loads(claim.body)
        assert "previous_response_id" not in body
        assert body["instructions"] == f"do {turn}", "those of earlier turns do not count"
        said.append(body["input"])
        await worker.succeed(claim, json.dumps(answer(claim, turn.upper())).encode())
        response = await asked
        assert response.previous_response_id == previous
        previous = response.id
    assert said[0] == "one"
    texts = [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"]
        for item in said[2]
    ]
    assert texts == ["one", "ONE", "two", "TWO", "three"]
    assert said[2][: len(said[1])][:2] == said[1][:2], "items keep their ids"
    assert previous is not None
    listed = [item async for item in client.responses.input_items.list(previous, order="asc", limit=2)]
    assert [item.id for item in listed[:4]] == [item["id"] for item in said[2][:4]]
    assert len({item.id for item in listed}) == 5
    backwards = [item async for item in client.responses.input_items.list(previous)]
    assert backwards == listed[::-1]
    with pytest.raises(openai.BadRequestError):
        await client.responses.input_items.list(previous, after="msg_none")


async def test_a_chain_is_bounded(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    first = await client.responses.create(model=MODEL, input="x" * 3000, background=True)
    claim = await worker.take()
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="more", previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_completed"
    await worker.succeed(claim, json.dumps(answer(claim, "y" * 1000)).encode())
    got = await http.post(RESPONSES, json={"model": MODEL, "input": "more", "previous_response_id": first.id})
    assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_conversation_goes_on(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    conversation = await client.conversations.create(items=[{"role": "user", "content": "one"}])
    first = await client.responses.create(
        model=MODEL, input="two", background=True, conversation=conversation.id
    )
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    claim = await worker.take()
    body = json.loads(claim.body)
    assert "conversation" not in body
    assert len(body["input"]) == 2
    with pytest.raises(openai.BadRequestError) as locked:
        await client.responses.create(model=MODEL, input="x", background=True, conversation=conversation.id)
    assert locked.value.code == "conversation_locked"
    await worker.succeed(claim, json.dumps(answer(claim, "TWO")).encode())
    listed = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert len(listed) == 3
    await client.responses.delete(first.id)
    assert [item async for item in client.conversations.items.list(conversation.id, order="asc")] == listed
    await client.responses.create(
        model=MODEL, input="three", background=True, conversation={"id": conversation.id}
    )
    body = json.loads((await worker.take()).body)
    assert [item["id"] for item in body["input"][:3]] == [item.id for item in listed]
    got = await http.post(RESPONSES, json={"model": MODEL, "input": "x", "conversation": f"conv_{7:032x}"})
    assert got.status_code == 404


async def test_an_answer_that_is_larger_than_a_request_is_not_continued(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    talk = (await client.conversations.create()).id
    first = await client.responses.create(model=MODEL, input="hi", background=True, conversation=talk)
    claim = await worker.take()
    await worker.succeed(claim, json.dumps(answer(claim, "y" * 5000)).encode())
    for given in ({"previous_response_id": first.id}, {"conversation": talk}):
        got = await http.post(RESPONSES, json={"model": MODEL, "input": "more", **given})
        assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")
        assert "begin another conversation" in got.json()["error"]["message"]
    got = await http.get(f"/v1/conversations/{talk}/items")
    assert (got.status_code, got.json()["error"]["code"]) == (413, "body_too_large")
    assert len([item async for item in client.responses.input_items.list(first.id)]) == 1
    await client.conversations.delete(talk)
    await client.responses.delete(first.id)


# ---- what there is not ----------------------------------------------------------------------------------------------


async def test_a_deleted_one_is_gone(
    client: openai.AsyncOpenAI, worker: Puppet, http: httpx.AsyncClient
) -> None:
    response = await client.responses.create(model=MODEL, input="hi", background=True, stream=True)
    claim = await worker.take()
    await response.close()
    got = await http.delete(f"/v1/responses/{ident(claim)}")
    assert (got.status_code, got.json()["error"]["code"]) == (409, "job_not_finished")
    await succeed(worker, claim, "a")
    got = await http.delete(f"/v1/responses/{ident(claim)}")
    assert got.json() == {"id": ident(claim), "object": "response", "deleted": True}
    for path in (f"/v1/responses/{ident(claim)}", f"/v1/jobs/{claim.id}"):
        assert (await http.get(path)).status_code == 404
    assert (await http.delete(f"/v1/responses/{ident(claim)}")).status_code == 404
    assert (await http.get("/v1/jobs")).json()["data"] == []
    keys = [key async for key in worker.store.client.scan_iter(f"*{claim.id}*")]
    assert keys == []


async def test_what_does_not_exist_is_said_in_openais_words(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    chat = {"input": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}, "endpoint": RESPONSES}
    assert (await http.post("/v1/jobs", json=chat)).status_code == 400
    for name in (MISSING, "resp_1", "job_" + "0" * 32):
        for method, path in (
            ("GET", name),
            ("DELETE", name),
            ("POST", f"{name}/cancel"),
            ("GET", f"{name}/input_items"),
            ("GET", f"{name}?stream=true"),
        ):
            got = await http.request(method, f"/v1/responses/{path}")
            assert got.status_code == 404, path
            assert got.json()["error"]["message"] == f"Response with id '{name}' not found."
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="hi", previous_response_id=MISSING)
    assert (refused.value.code, refused.value.param) == (
        "previous_response_not_found",
        "previous_response_id",
    )


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"background": True, "store": False}, "background", "when store is true"),
        ({"background": "perhaps"}, "background", "bool"),
        ({"previous_response_id": 7}, "previous_response_id", "string"),
        ({"tools": [{"type": "web_search"}]}, "tools", "'web_search' is not there"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools", "'mcp' is not there"),
        ({"input": None}, "input", "required"),
    ],
)
async def test_what_cannot_be_is_refused_clearly(
    http: httpx.AsyncClient, worker: Puppet, given: dict[str, Any], param: str, words: str
) -> None:
    body = {"model": MODEL, "input": "hi", **given}
    job = {"endpoint": RESPONSES, "input": body}
    for path, sent in ((RESPONSES, body), ("/v1/jobs", job)):
        got = await http.post(path, json=sent)
        assert got.status_code == 400, got.text
        assert got.json()["error"]["param"] == param
        assert words in got.json()["error"]["message"]
    assert await worker.waiting() == 0


async def test_a_query_must_be_right(client: openai.AsyncOpenAI, http: httpx.AsyncClient) -> None:
    response = await client.responses.create(model=MODEL, input="hi", background=True)
    for query, param in (
        ("stream=maybe", "stream"),
        ("stream=true", "stream"),  # it was created without
        ("stream=true&starting_after=-1", "starting_after"),
        ("starting_after=one", "starting_after"),
    ):
        got = await http.get(f"/v1/responses/{response.id}?{query}")
        assert (got.status_code, got.json()["error"]["param"]) == (400, param), query
    got = await http.get(f"/v1/responses/{response.id}?include[]=reasoning.encrypted_content")
    assert got.status_code == 200
