from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from jobs.model import Usage
from workers.engines.assemble import MAX_EVENT_BYTES, Assembler, BadChunkError, SseReader, StreamError


def chunk(choices: list[dict], **top: object) -> str:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return json.dumps({**base, "choices": choices, **top})


def delta(index: Any = 0, *, finish: Any = None, **fields: Any) -> dict:
    return {"index": index, "delta": fields, "finish_reason": finish}


def assembled(*frames: str, chat: bool = True) -> dict:
    assembler = Assembler(chat=chat)
    for frame in frames:
        assembler.add(frame)
    return json.loads(assembler.result())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_sse_reader_takes_any_cut(size: int) -> None:
    data = ': ping\n\ndata: {"a":"é"}\r\n\r\nevent: x\ndata:{"b":1}\n\ndata: [DONE]\n\n'.encode()
    reader = SseReader()
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    assert [frame for part in parts for frame in reader.feed(part)] == ['{"a":"é"}', '{"b":1}']


def test_a_line_without_an_end_is_refused() -> None:
    reader = SseReader()
    assert reader.feed(b"x" * MAX_EVENT_BYTES) == []
    with pytest.raises(BadChunkError, match="more than"):
        reader.feed(b"x")


def test_a_piece_of_a_long_line_costs_no_copy_of_the_line() -> None:
    held = 1 << 20
    tracemalloc.start()
    try:
        reader = SseReader()
        reader.feed(b"data: " + b"x" * held)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            reader.feed(b"x" * 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < held // 2
    assert reader.feed(b"\n") == ["x" * (held + 20_000)]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "5",
        "[]",
        "null",
        '"text"',
        '{"choices": 7}',
        '{"choices": [7]}',
        '{"choices": [], "usage": "many"}',
    ],
)
def test_what_is_no_chunk_is_refused(frame: str) -> None:
    with pytest.raises(BadChunkError):
        Assembler(chat=True).add(frame)


def test_a_chunk_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BadChunkError, match="UTF-8"):
        SseReader().feed(b'data: {"a": "\xff"}\n\n')


def test_chat_text() -> None:
    whole = assembled(
        chunk([delta(role="assistant", content="")]),
        chunk([delta(content="Hel")]),
        chunk([delta(role="assistant", content="lo")]),
        chunk([delta(content="", finish="stop") | {"stop_reason": 7}], system_fingerprint="fp"),
        chunk([], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
    )
    assert whole == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": 7,
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_grows(field: str) -> None:
    whole = assembled(
        chunk([delta(role="assistant", content="")]),
        chunk([delta(**{field: "I th"})]),
        chunk([delta(**{field: "ink"})]),
        chunk([delta(content="so")]),
        chunk([delta(finish="stop")]),
    )
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "so", field: "I think"}


def test_tool_calls_merge_by_index() -> None:
    whole = assembled(
        chunk([delta(role="assistant", content=None)]),
        chunk([delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "g"}}])]),
        chunk(
            [
                delta(
                    tool_calls=[
                        {
                            "index": 0,
                            "id": "a",
                            "type": "function",
                            "function": {"name": "f", "arguments": ""},
                        }
                    ]
                )
            ]
        ),
        chunk([delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}])]),
        chunk([delta(tool_calls=[{"index": 1, "id": "b", "function": {"arguments": "{}"}}])]),
        chunk([delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}])]),
        chunk([delta(finish="tool_calls")]),
    )
    message = whole["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_several_choices_and_logprobs() -> None:
    def scored(index: int, token: str) -> dict:
        return delta(index, content=token) | {"logprobs": {"content": [{"token": token, "logprob": -1}]}}

    whole = assembled(
        chunk([delta(1, role="assistant", content="")]),
        chunk([delta(0, role="assistant", content="")]),
        chunk([scored(1, "b")]),
        chunk([scored(0, "a")]),
        chunk([scored(1, "c")]),
        chunk([delta(0, finish="length")]),
        chunk([delta(1, finish="stop")]),
    )
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["a", "bc"]
    assert [item["token"] for item in whole["choices"][1]["logprobs"]["content"]] == ["b", "c"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["length", "stop"]


def test_completions() -> None:
    whole = assembled(
        chunk(
            [
                {
                    "index": 0,
                    "text": "a",
                    "logprobs": {"tokens": ["a"], "text_offset": [0]},
                    "finish_reason": None,
                }
            ]
        ),
        chunk(
            [
                {
                    "index": 0,
                    "text": "b",
                    "logprobs": {"tokens": ["b"], "text_offset": [1]},
                    "finish_reason": "stop",
                }
            ]
        ),
        chat=False,
    )
    assert whole["object"] == "text_completion"
    assert whole["choices"] == [
        {
            "index": 0,
            "text": "ab",
            "logprobs": {"tokens": ["a", "b"], "text_offset": [0, 1]},
            "finish_reason": "stop",
        }
    ]


def test_usage_chunk_is_told_and_read() -> None:
    assembler = Assembler(chat=True)
    assert not assembler.add(chunk([delta(content="x", finish="stop")]))
    assert assembler.usage is None
    assert assembler.add(chunk([], usage={"prompt_tokens": 4, "total_tokens": 6, "completion_tokens": 2}))
    assert assembler.usage == Usage(4, 2, 6)


def test_finished_means_every_choice() -> None:
    assembler = Assembler(chat=True)
    assert not assembler.finished
    assembler.add(chunk([delta(0, content="x", finish="stop"), delta(1, content="y")]))
    assert not assembler.finished
    assembler.add(chunk([delta(1, finish="length")]))
    assert assembler.finished


@pytest.mark.parametrize(("code", "status"), [(400, 400), ("server_error", 500), (None, 500), (429, 429)])
def test_error_in_the_stream(code: object, status: int) -> None:
    frame = json.dumps({"error": {"message": "no", "code": code}})
    with pytest.raises(StreamError) as caught:
        Assembler(chat=True).add(frame)
    assert (caught.value.status, caught.value.body) == (status, frame.encode())
