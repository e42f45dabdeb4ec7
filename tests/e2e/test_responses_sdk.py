"""Responses by the official `openai` SDK, unchanged, against `penstock up` with real vLLM."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.e2e.stacks import Stack
from tests.support import wait_until

MODEL = "tiny-random"
TO_THE_END = {"ignore_eos": True}
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

pytestmark = pytest.mark.xdist_group("vllm")

_event = TypeAdapter[Any](ResponseStreamEvent)


@pytest.fixture(scope="module")
def client(vllm_stack: Stack) -> Any:
    """An ``OpenAI``. Of no type: it is given what no type of its own allows."""
    return OpenAI(base_url=f"{vllm_stack.url}/v1", api_key="none", max_retries=0, timeout=120)


def ask(client: Any, **more: Any) -> Any:
    given = {"model": MODEL, "input": "Say a word", "max_output_tokens": 12, "temperature": 0, **more}
    return client.responses.create(**given, extra_body=TO_THE_END)


def whole(events: list[Any]) -> list[Any]:
    """Check events by the SDK's own types: each valid, numbered from 0 without a gap, and one end."""
    for event in events:
        _event.validate_python(event.model_dump(warnings=False))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete", "the limit of tokens ended it"
    return events


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_whole_and_streamed_are_the_same(client: Any) -> None:
    first = ask(client, metadata={"a": "b"}, instructions="be kind")
    Response.model_validate(first.model_dump(warnings=False))
    assert (first.status, first.usage.output_tokens, first.metadata) == ("incomplete", 12, {"a": "b"})
    assert client.responses.retrieve(first.id) == first
    events = whole(list(ask(client, instructions="be kind", stream=True)))
    assert text_of(events) == first.output_text
    again = events[-1].response
    assert (again.output_text, again.store, again.background) == (first.output_text, True, False)
    read = list(client.responses.retrieve(again.id, stream=True))
    assert read == events


def test_in_the_background(client: Any) -> None:
    queued = ask(client, background=True, tools=[TOOL], tool_choice="auto")
    Response.model_validate(queued.model_dump(warnings=False))
    assert (queued.status, queued.background, queued.tools[0].name) == ("queued", True, "weather")
    wait_until(lambda: client.responses.retrieve(queued.id).status not in {"queued", "in_progress"}, 60)
    done = client.responses.retrieve(queued.id)
    Response.model_validate(done.model_dump(warnings=False))
    assert (done.id, done.status, done.background, done.usage.output_tokens) == (
        queued.id,
        "incomplete",
        True,
        12,
    )
    assert (done.created_at, done.tools) == (queued.created_at, queued.tools)


def test_a_stream_is_resumed_wherever_it_was_cut(client: Any) -> None:
    stream = ask(client, background=True, stream=True)
    first = next(iter(stream))
    stream.close()
    assert first.response.status == "queued"
    events = whole(list(client.responses.retrieve(first.response.id, stream=True)))
    assert [event.type for event in events[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert text_of(events) == events[-1].response.output_text == ask(client).output_text
    for after in range(len(events)):
        resumed = client.responses.retrieve(first.response.id, stream=True, starting_after=after)
        assert list(resumed) == events[after + 1 :], after


def test_a_live_stream_is_cut_at_every_event(client: Any) -> None:
    stream = ask(client, background=True, stream=True, max_output_tokens=40)
    name = ""
    got: list[Any] = []
    while not got or got[-1].type != "response.incomplete":
        got.append(next(iter(stream)))
        stream.close()
        name = name or got[0].response.id
        stream = client.responses.retrieve(name, stream=True, starting_after=got[-1].sequence_number)
    stream.close()
    assert whole(got) == list(client.responses.retrieve(name, stream=True))


def test_cancelled_and_deleted(client: Any, vllm_stack: Stack) -> None:
    long = ask(client, background=True, max_output_tokens=1500)
    cancelled = client.responses.cancel(long.id)
    assert (cancelled.id, cancelled.status) == (long.id, "cancelled")
    assert client.responses.cancel(long.id).status == "cancelled"
    whole_one = ask(client)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(whole_one.id)
    got = httpx.delete(f"{vllm_stack.url}/v1/responses/{long.id}")
    assert got.json() == {"id": long.id, "object": "response", "deleted": True}
    client.responses.delete(whole_one.id)
    for name in (long.id, whole_one.id):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{name}' not found"):
            client.responses.retrieve(name)


def test_a_chain_of_three(client: Any) -> None:
    """The engine sees the same prompt as if the client had sent all turns itself."""
    turns, previous, items = ["one", "two", "three"], None, []
    for turn in turns:
        response = ask(client, input=turn, previous_response_id=previous)
        items.append({"role": "user", "content": turn})
        same = ask(client, input=items)
        assert (response.output_text, response.usage.input_tokens) == (
            same.output_text,
            same.usage.input_tokens,
        )
        items += [item.model_dump(exclude_none=True) for item in response.output]
        previous = response.id
    listed = list(client.responses.input_items.list(previous, order="asc"))
    texts = [part.text for item in listed for part in item.content]
    assert texts[::2] == turns
    assert len({item.id for item in listed}) == 5
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, previous_response_id=f"resp_job_{7:032x}")
    assert refused.value.code == "previous_response_not_found"


def test_a_conversation_has_its_turns(client: Any) -> None:
    conversation = client.conversations.create(items=[{"role": "user", "content": "one"}])
    response = ask(client, input="two", conversation=conversation.id)
    assert response.conversation.id == conversation.id
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in items] == ["user", "user", "assistant"]
    client.responses.delete(response.id)
    kept = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.id for item in kept] == [item.id for item in items]
    further = ask(client, input="three", conversation={"id": conversation.id}, background=True)
    wait_until(lambda: client.responses.retrieve(further.id).status == "incomplete", 60)
    assert len(list(client.conversations.items.list(conversation.id))) == 5


def test_tools_and_structured_output_are_the_engines(client: Any) -> None:
    form = {"type": "json_schema", "name": "x", "strict": True, "schema": {"enum": ["yes", "no"]}}
    response = client.responses.create(
        model=MODEL, input="Yes or no?", text={"format": form}, max_output_tokens=20, max_tool_calls=3
    )
    assert response.output_text.strip() in {'"yes"', '"no"'}
    assert response.max_tool_calls == 3
    with pytest.raises(openai.BadRequestError, match="the tool 'web_search' is not there"):
        ask(client, tools=[{"type": "web_search"}])
