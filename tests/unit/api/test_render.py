"""Rendering streams: what is sent when, and what the last frame says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from api.http.sse import MERGE_ABOVE, Texts, json_string, merged
from api.jobs.frames import Cursor, EventFrames
from api.openai.frames import DONE, OpenAIStream
from jobs.stream_chunks import Chunk, Frames, Head, Text, encode

JOB = "job_1"
HEAD = Head(('{"n":"first"}',), '{"t":', "}")
OPEN = '{"id":"x","choices":[{"delta":{"content":"\\"finish_reason\\":\\"stop"},"finish_reason":null}]}'
CLOSED = '{"id":"x","choices":[{"delta":{},"finish_reason":"stop"}],"lp":-9.50e-05}'
USAGE = '{"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'


def end(state: str = "succeeded", **more: Any) -> str:
    header = {"state": state, "status": 200, "attempt": 1, "created": 1000, "started": 1010, "first": 1030}
    header |= {"finished": 1110, "usage": '{"p":3,"c":10,"t":13}', "error": None, **more}
    return "e" + json.dumps(header) + "\n{}"


def entries(*said: Chunk | str, start: int = 1) -> list[tuple[str, str]]:
    payloads = [one if isinstance(one, str) else encode(one) for one in said]
    return [(f"1-{n}", payload) for n, payload in enumerate(payloads, start)]


def parsed(data: bytes) -> list[Any]:
    frames = data.decode().split("\n\n")[:-1]
    return [json.loads(f[6:]) if f != "data: [DONE]" else "[DONE]" for f in frames]


class Model(BaseModel):
    text: str


@given(st.text())
def test_strings_are_written_as_pydantic_writes_them(text: str) -> None:
    try:
        expected = Model(text=text).model_dump_json().encode()
    except ValueError:  # a lone surrogate, which no payload can carry
        return
    assert b'{"text":' + json_string(text) + b"}" == expected


def test_text_before_its_head_is_an_error() -> None:
    with pytest.raises(ValueError, match="head"):
        Texts().frame("x")


def test_a_compact_stream() -> None:
    stream = OpenAIStream(JOB)
    assert parsed(stream.feed(entries(HEAD, Text("a")))) == [{"n": "first"}, {"t": "a"}]
    assert parsed(stream.feed(entries(Text("b")))) == [{"t": "b"}]
    *_, last, done = parsed(stream.feed(entries(Frames((CLOSED,)), end())))
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13}
    facts = {"job_id": JOB, "queue_ms": 10, "ttft_ms": 30, "total_ms": 110, "tokens_per_s": 100.0}
    assert last["penstock"] == facts
    assert done == "[DONE]"
    assert stream.ending is not None


def test_reasoning_has_a_frame_of_its_own() -> None:
    head = Head((), '{"t":', "}", reasoning=('{"r":', "}"))
    thought, said = [Text("a", reasoning=True)] * (MERGE_ABOVE + 1), [Text("b")] * (MERGE_ABOVE + 1)
    assert parsed(OpenAIStream(JOB).feed(entries(head, *thought, *said))) == [
        {"r": "a" * (MERGE_ABOVE + 1)},
        {"t": "b" * (MERGE_ABOVE + 1)},
    ]
    read = EventFrames(JOB, Cursor()).feed(entries(head, Text("a", reasoning=True), Text("b")))
    assert [line for line in read.decode().split("\n") if line.startswith("data")] == [
        'data: {"r":"a"}',
        'data: {"t":"b"}',
    ]
    with pytest.raises(ValueError, match="head"):
        OpenAIStream(JOB).feed(entries(HEAD, Text("a", reasoning=True)))


def test_many_waiting_texts_become_one_frame() -> None:
    texts = [Text(str(n % 10)) for n in range(MERGE_ABOVE + 1)]
    stream = OpenAIStream(JOB)
    assert parsed(stream.feed(entries(HEAD, *texts, Frames((OPEN,)))))[1] == {"t": "012345678"}
    few = OpenAIStream(JOB)
    assert len(parsed(few.feed(entries(HEAD, *texts[:MERGE_ABOVE])))) == 1 + MERGE_ABOVE


def test_merging_keeps_the_order_and_the_last_id_of_a_run() -> None:
    few = [("1-1", "ta"), ("1-2", "tb")]
    assert merged(few) is few
    texts = [(f"1-{n}", f"t{n % 10}") for n in range(2, MERGE_ABOVE + 3)]
    events = [("1-1", "jx"), *texts[:3], ("2-1", "s{}"), *texts[3:], ("2-9", "e{}")]
    together = [(texts[2][0], "t234"), ("2-1", "s{}"), (texts[-1][0], "t567890")]
    assert merged(events) == [("1-1", "jx"), *together, ("2-9", "e{}")]


def test_many_waiting_texts_become_one_event() -> None:
    frames = EventFrames(JOB, Cursor())
    texts = [Text(str(n % 10)) for n in range(MERGE_ABOVE + 1)]
    said = frames.feed(entries(HEAD, *texts))
    assert said.count(b"event: chunk") == 2
    assert said.endswith(b'data: {"t":"012345678"}\n\n')


def test_only_a_closing_frame_is_held_and_only_while_it_is_the_last() -> None:
    stream = OpenAIStream(JOB)
    assert len(parsed(stream.feed(entries(Frames((OPEN,)))))) == 1
    assert stream.feed(entries(Frames((CLOSED,)))) == b""
    assert stream.feed(entries(Frames((USAGE,)))) == b"data: " + CLOSED.encode() + b"\n\n"
    last, done = parsed(stream.feed(entries(end())))
    assert last["usage"]["total_tokens"] == 2  # the engine's own stays
    assert last["penstock"]["job_id"] == JOB
    assert done == "[DONE]"


def test_a_closing_frame_is_otherwise_kept_to_the_letter() -> None:
    stream = OpenAIStream(JOB)
    data = stream.feed(entries(Frames((CLOSED[:-1] + ',"usage":null}',)), end()))
    assert data.startswith(b"data: " + CLOSED[:-1].encode() + b',"usage":{"prompt_tokens":3,')
    assert data.endswith(DONE)


def test_a_stream_without_a_closing_frame_gets_one() -> None:
    stream = OpenAIStream(JOB)
    stream.feed(entries(Frames((OPEN,))))
    last, _ = parsed(stream.feed(entries(end())))
    assert (last["id"], last["choices"], last["usage"]["total_tokens"]) == ("x", [], 13)


def test_a_failure_is_a_frame_after_the_head_and_nothing_before_it() -> None:
    error = json.dumps({"code": "engine_error", "message": "broke", "param": None})
    stream = OpenAIStream(JOB)
    stream.feed(entries(HEAD, Frames((CLOSED,))))
    held, told = parsed(stream.feed(entries(end("failed", error=error, status=500))))
    assert held == json.loads(CLOSED)
    assert told["error"]["code"] == "engine_error"
    assert stream.error_code == "engine_error"

    silent = OpenAIStream(JOB)
    assert silent.feed(entries(Head((), "", ""), end("failed", error=error, status=500))) == b""
    assert silent.ending is not None
    assert silent.error_code is None


@pytest.mark.parametrize(("state", "code"), [("cancelled", "job_cancelled"), ("expired", "expired")])
def test_other_ends_after_the_head(state: str, code: str) -> None:
    stream = OpenAIStream(JOB)
    stream.feed(entries(HEAD))
    assert parsed(stream.feed(entries(end(state))))[-1]["error"]["code"] == code


def test_a_restart() -> None:
    running = "s" + json.dumps({"state": "running", "attempt": 2})
    queued = "s" + json.dumps({"state": "queued", "attempt": 1})
    unseen = OpenAIStream(JOB)
    assert unseen.feed(entries(running, Head((), "(", ")"), queued, running)) == b""
    assert parsed(unseen.feed(entries(HEAD, Text("a"))))[-1] == {"t": "a"}

    seen = OpenAIStream(JOB)
    seen.feed(entries(HEAD, Text("a")))
    assert seen.feed(entries(queued)) == b""
    assert parsed(seen.feed(entries(running, HEAD, Text("a"))))[-1]["error"]["code"] == "worker_lost"
    assert seen.error_code == "worker_lost"
    assert seen.ending is None


@given(
    st.lists(st.one_of(st.text().map(Text), st.just(Frames((OPEN,))), st.just(Frames((CLOSED,))))), st.data()
)
def test_batches_do_not_matter(said: list[Text | Frames], data: st.DataObject) -> None:
    """However entries are batched, the text is the same, and each frame comes once and in order."""
    payloads = entries(HEAD, *said, end())
    stream, out = OpenAIStream(JOB), b""
    while payloads:
        size = data.draw(st.integers(1, len(payloads)))
        out += stream.feed(payloads[:size])
        payloads = payloads[size:]
    found = parsed(out)
    assert found[-1] == "[DONE]"
    text = "".join(frame.get("t", "") for frame in found[:-1])
    assert text == "".join(one.text for one in said if isinstance(one, Text))
    closed = [frame for frame in found[:-1] if frame.get("lp")]
    assert len(closed) == sum(one == Frames((CLOSED,)) for one in said)
    assert sum("penstock" in frame for frame in found[:-1]) == 1
    assert "penstock" in found[-2]
