"""Streams of events: the answer put together from any cut of the bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.endpoints import MESSAGES, RESPONSES
from jobs.model import Usage
from jobs.stream_chunks import Chunk, Frames
from workers.engines.base import EngineDeadError, Final
from workers.engines.events_assemble import ended_early
from workers.engines.events_stream import relay_events
from workers.engines.full_stream import read_usage, whole

Event = dict[str, Any]

TEXTS = st.lists(st.text(max_size=5), max_size=4)
CUTS = st.lists(st.integers(0, 4000), max_size=8)


def sse(events: list[Event]) -> bytes:
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events
    ).encode()


def without_a_loop(work: Coroutine[Any, Any, Final]) -> Final:
    """Run what never waits."""
    with pytest.raises(StopIteration) as end:
        work.send(None)
    final: Final = end.value.value
    return final


def relayed(
    data: bytes, cuts: list[int], path: str, *, stop_after: int | None = None
) -> tuple[Final, list[Event]]:
    """Relay a stream, cut at these places; ``stop_after``: it is stopped when so many chunks were emitted."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    chunks: list[Chunk] = []

    async def parts() -> AsyncIterator[bytes]:
        for begin, end in pairwise(places):
            yield data[begin:end]

    def stopped() -> bool:
        return stop_after is not None and len(chunks) >= stop_after

    final = without_a_loop(relay_events(parts(), chunks.append, path, stopped=stopped))
    frames = [frame for chunk in chunks if isinstance(chunk, Frames) for frame in chunk.frames]
    assert len(chunks) == sum(isinstance(chunk, Frames) for chunk in chunks)
    return final, [json.loads(frame) for frame in frames]


def message_of(blocks: list[tuple[str, list[str]]]) -> tuple[list[Event], Event]:
    """Return the events of a message with these blocks, and the message."""
    start = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": [], "model": "m"}
    begun = {
        **start,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 0},
    }
    events: list[Event] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    content: list[Event] = []
    for index, (kind, texts) in enumerate(blocks):
        if kind == "tool_use":
            given = {"city": "".join(texts)}
            block: Event = {"type": kind, "id": f"t{index}", "name": "f", "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": one} for one in json.dumps(given)]
            whole = {**block, "input": given}
        else:
            name = "text" if kind == "text" else "thinking"
            block = {"type": kind, name: ""}
            deltas = [{"type": f"{name}_delta", name: text} for text in texts]
            whole = {"type": kind, name: "".join(texts)}
            if kind == "thinking":
                deltas.append({"type": "signature_delta", "signature": "s"})
                whole["signature"] = "s"
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": one} for one in deltas]
        events.append({"type": "content_block_stop", "index": index})
        content.append(whole)
    usage = {"output_tokens": 7, "cache_read_input_tokens": 4}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": end, "usage": usage}, {"type": "message_stop"}]
    return events, {**begun, **end, "content": content, "usage": {"input_tokens": 9, **usage}}


BLOCKS = st.lists(st.tuples(st.sampled_from(["text", "thinking", "tool_use"]), TEXTS), max_size=4)


@given(BLOCKS, CUTS)
def test_a_message_comes_of_its_events_however_they_are_cut(
    blocks: list[tuple[str, list[str]]], cuts: list[int]
) -> None:
    events, message = message_of(blocks)
    final, emitted = relayed(sse(events), cuts, MESSAGES)
    assert emitted == events
    assert (final.status, json.loads(final.body)) == (200, message)
    assert final.usage == Usage(13, 7, 20, 4)  # Anthropic counts what was cached apart


def response_of(items: list[tuple[str, list[str]]], *, end: str = "completed") -> tuple[list[Event], Event]:
    """Return the events of a response with these items, and the response."""
    base = {
        "id": "resp_1",
        "object": "response",
        "model": "m",
        "output": [],
        "usage": None,
    }
    events: list[Event] = [
        {"type": f"response.{name}", "response": {**base, "status": "in_progress"}}
        for name in ("created", "in_progress")
    ]
    output: list[Event] = []
    for index, (kind, texts) in enumerate(items):
        at, text = {"output_index": index}, "".join(texts)
        if kind == "function_call":
            item: Event = {"type": kind, "id": f"i{index}", "name": "f", "arguments": ""}
            whole, name, place = {**item, "arguments": text}, "function_call_arguments", at
            more: list[Event] = []
        else:
            member, name, part = {
                "message": ("content", "output_text", {"type": "output_text", "text": ""}),
                "reasoning": ("content", "reasoning_text", {"type": "reasoning_text", "text": ""}),
                "summary": ("summary", "reasoning_summary_text", {"type": "summary_text", "text": ""}),
            }[kind]
            begin = {
                "message": "content_part",
                "reasoning": "reasoning_part",
                "summary": "reasoning_summary_part",
            }
            item = {"type": kind, "id": f"i{index}", member: None if kind == "reasoning" else []}
            whole, place = {**item, member: [{**part, "text": text}]}, {**at, f"{member}_index": 0}
            more = [{"type": f"response.{begin[kind]}.added", **place, "part": part}]
        events += [{"type": "response.output_item.added", **at, "item": item}, *more]
        events += [{"type": f"response.{name}.delta", **place, "delta": one} for one in texts]
        events += [{"type": f"response.{name}.done", **place}]
        events += [{"type": "response.output_item.done", **at, "item": whole}]
        output.append(whole)
    counts = {
        "input_tokens": 13,
        "output_tokens": 7,
        "total_tokens": 20,
        "input_tokens_details": {"cached_tokens": 4},
    }
    response = {**base, "status": end, "output": output, "usage": counts}
    events.append({"type": f"response.{end}", "response": response})
    return [{**event, "sequence_number": n} for n, event in enumerate(events)], response


ITEMS = st.lists(
    st.tuples(st.sampled_from(["message", "reasoning", "summary", "function_call"]), TEXTS), max_size=4
)


@given(ITEMS, CUTS, st.sampled_from(["completed", "incomplete"]))
def test_a_response_is_that_of_its_last_event(
    items: list[tuple[str, list[str]]], cuts: list[int], end: str
) -> None:
    events, response = response_of(items, end=end)
    final, emitted = relayed(sse(events), cuts, RESPONSES)
    assert emitted == events
    assert (final.status, json.loads(final.body)) == (200, response)
    assert final.body == json.dumps(response, ensure_ascii=False).encode()
    assert final.usage == Usage(13, 7, 20, 4)


@given(ITEMS)
def test_a_response_that_is_stopped_has_what_came(items: list[tuple[str, list[str]]]) -> None:
    """The end's event is missing, as if the connection was closed; the items' ends may be missing too."""
    events, response = response_of(items)
    final, emitted = relayed(sse(events[:-1]), [], RESPONSES, stop_after=1)
    assert emitted == events[:-1]
    assert json.loads(final.body) == {**response, "status": "cancelled", "usage": None}
    unfinished = [event for event in events[:-1] if event["type"] != "response.output_item.done"]
    final, _ = relayed(sse(unfinished), [], RESPONSES, stop_after=1)
    assert json.loads(final.body)["output"] == response["output"]


def test_a_stopped_stream_says_no_more() -> None:
    """vLLM ends an aborted request as if it was complete: that must not reach the client."""
    events, message = message_of([("text", ["a", "b"])])
    data = sse(events)
    place = data.index(b"event: message_delta")
    final, emitted = relayed(data, [place], MESSAGES, stop_after=1)
    assert emitted == events[:-2]
    assert json.loads(final.body) == message


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_a_stream_that_breaks_off_is_the_engines_death(path: str) -> None:
    events = (message_of([("text", ["a"])]) if path == MESSAGES else response_of([("message", ["a"])]))[0]
    for count in range(len(events)):
        with pytest.raises(EngineDeadError, match="broke off"):
            relayed(sse(events[:count]), [], path)


def openai_error(**given: object) -> Event:
    return {"type": "error", "message": "m", "param": None, "sequence_number": 3, **given}


def anthropic_error(kind: str) -> Event:
    return {"type": "error", "error": {"type": kind, "message": "m"}}


@pytest.mark.parametrize(
    ("path", "event", "status", "told"),
    [
        (RESPONSES, openai_error(code="rate_limit_exceeded"), 429, {"type": "server_error"}),
        (RESPONSES, openai_error(code="invalid_prompt"), 400, {"type": "invalid_request_error"}),
        (RESPONSES, openai_error(), 500, {"type": "server_error"}),
        (RESPONSES, {"error": {"message": "m", "code": 400}}, 400, {"code": 400}),
        (MESSAGES, anthropic_error("overloaded_error"), 529, {"type": "overloaded_error"}),
        (MESSAGES, anthropic_error("internal_error"), 500, {"type": "internal_error"}),
    ],
)
def test_an_error_event_is_the_end_with_its_status(path: str, event: Event, status: int, told: Event) -> None:
    events = (message_of([("text", ["a"])]) if path == MESSAGES else response_of([("message", ["a"])]))[0][:4]
    data = sse(events) + f"event: error\ndata: {json.dumps(event)}\n\n".encode()
    final, emitted = relayed(data, [len(sse(events))], path)
    assert emitted == events
    error = json.loads(final.body)["error"]
    assert (final.status, final.usage, error["message"]) == (status, None, "m")
    assert told.items() <= error.items()


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize(
    "frame",
    [
        *("{", "5", "[]", "{}", '"text"', '{"error": 5}', "[" * 100_000),
        *('{"type": "message_start", "message": 5}', '{"type": "response.completed", "response": [5]}'),
        '{"type": "content_block_delta", "index": 7, "delta": {"type": "text_delta", "text": "x"}}',
    ],
)
def test_what_is_no_event_is_the_engines_death(path: str, frame: str) -> None:
    """An event of the other kind is ignored: then the stream has no end."""
    with pytest.raises(EngineDeadError, match=r"bad event|broke off"):
        relayed(f"data: {frame}\n\n".encode(), [], path)


def test_a_response_whose_parts_are_odd_is_that_of_its_end_all_the_same() -> None:
    events, response = response_of([("message", ["a"])])
    odd: list[dict[str, Any]] = [
        {"type": "response.output_text.delta", "delta": 5},
        {"type": "response.web_search_call.searching"},
    ]
    final, emitted = relayed(sse([*events[:2], *odd, *events[2:]]), [], RESPONSES)
    assert len(emitted) == len(events) + 2
    assert json.loads(final.body) == response


def test_an_aborted_answer_is_not_complete() -> None:
    assert ended_early(b'{"id":"resp_1","status":"completed","x":4.9e-324}') == (
        b'{"id":"resp_1","status":"cancelled","x":4.9e-324}'
    )


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 5}, Usage(5, 0, 5)),
        ({"input_tokens": 15, "output_tokens": 5}, Usage(15, 5, 20)),
        (
            {
                "input_tokens": 3,
                "output_tokens": 5,
                "cache_read_input_tokens": 8,
                "cache_creation_input_tokens": 4,
            },
            Usage(15, 5, 20, 8),
        ),
        ({"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": None}, Usage(3, 5, 8)),
    ],
)
def test_usage_of_a_whole_answer(usage: Event, read: Usage) -> None:
    assert read_usage(json.dumps({"usage": usage}).encode()) == read


@pytest.mark.parametrize("streamed_", [False, True])
def test_a_response_that_failed_is_an_error(streamed_: bool) -> None:
    """A server of others may say so with status 200."""
    failed = {
        "id": "resp_1",
        "object": "response",
        "status": "failed",
        "output": [],
        "error": {"code": "server_error", "message": "out of memory"},
    }
    if streamed_:
        events = [
            {"type": "response.created", "response": failed},
            {"type": "response.failed", "response": failed},
        ]
        final, _ = relayed(sse(events), [], RESPONSES)
    else:
        final = whole(200, json.dumps(failed).encode())
    assert (final.status, final.usage) == (500, None)
    said = json.loads(final.body)["error"]
    assert (said["message"], said["code"]) == ("out of memory", "server_error")


def test_a_response_that_says_failed_is_none_that_failed() -> None:
    body = json.dumps(
        {"object": "response", "status": "completed", "output": ['"failed"'], "text": "failed"}
    ).encode()
    assert whole(200, body).status == 200
