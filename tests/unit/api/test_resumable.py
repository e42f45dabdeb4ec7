"""Numbered streams: whatever the cut and however the entries come, nothing is lost and nothing comes twice."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from api.http.errors import ApiError
from api.openai.frames import OpenAIStream
from api.openai.resumable import ResumableStream
from jobs.endpoints import CHAT, MESSAGES, RESPONSES
from jobs.stream_chunks import Chunk, Frames, Head, Text, encode

JOB = "job_1"
HEAD = Head(('{"id":"x","object":"o","n":"first"}',), '{"id":"x","t":', "}")
CLOSED = '{"id":"x","choices":[{"delta":{},"finish_reason":"stop"}]}'
SAID: tuple[Chunk, ...] = (
    HEAD,
    *(Text(f"{n} ") for n in range(12)),
    Frames(('{"n":1}', '{"n":2}', '{"n":3}')),
    Text("last"),
    Frames((CLOSED,)),
)


class Event(NamedTuple):
    number: int
    name: str
    data: Any


def end(state: str = "succeeded", attempt: int = 1, **more: Any) -> tuple[str, str]:
    header = {"state": state, "status": 200, "attempt": attempt, "created": 1000, "started": 1010}
    header |= {"first": 1030, "finished": 1110, "usage": '{"p":3,"c":10,"t":13}', "error": None, **more}
    return f"{attempt}-4294967295", "e" + json.dumps(header)


def attempt(number: int, *said: Chunk) -> list[tuple[str, str]]:
    running = (f"{number}-0", 's{"state":"running"}')
    return [running, *((f"{number}-{n}", encode(one)) for n, one in enumerate(said, 1))]


def queued(number: int = 0) -> tuple[str, str]:
    return ("0-1" if not number else f"{number}-4294967294"), 's{"state":"queued"}'


def events(data: bytes) -> list[Event]:
    found = []
    for frame in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        text = fields["data"]
        value = text if text == "[DONE]" else json.loads(text)
        found.append(Event(int(fields.get("id", 0)), fields.get("event", ""), value))
    return found


def read(
    log: Sequence[tuple[str, str]], after: int = 0, *, groups: Sequence[int] = (1,), **more: Any
) -> list[Event]:
    """Read a log in groups of these sizes, over and over."""
    stream = ResumableStream(JOB, more.pop("endpoint", CHAT), after=after, **more)
    out, place, turn = b"", 0, 0
    while place < len(log) and not stream.over:
        size = groups[turn % len(groups)]
        out += stream.feed(log[place : place + size])
        place, turn = place + size, turn + 1
    return events(out)


def text(found: Sequence[Event]) -> str:
    return "".join(one.data.get("t", "") for one in found if one.data != "[DONE]")


def others(found: Sequence[Event]) -> list[Event]:
    return [one for one in found if one.data == "[DONE]" or "t" not in one.data]


LOG = [queued(), *attempt(1, *SAID), end()]
ALL = read(LOG)


def test_a_stream_is_the_endpoints_own_with_numbers() -> None:
    own = OpenAIStream(JOB)
    plain = b"".join(own.feed([entry]) for entry in LOG)
    assert [one.data for one in ALL] == [one.data for one in events(plain)]
    assert [one.number for one in ALL] == [*range(1, len(ALL) + 1)]
    assert ALL[-1].data == "[DONE]"
    assert ALL[-2].data["usage"]["total_tokens"] == 13


@given(st.integers(0, len(ALL) + 1), *(st.lists(st.integers(1, 20), min_size=1),) * 2)
def test_a_cut_anywhere_loses_and_repeats_nothing(cut: int, first: list[int], second: list[int]) -> None:
    before = [one for one in read(LOG, groups=first) if one.number <= cut]
    last = before[-1].number if before else 0
    rest = read(LOG, last, groups=second)
    assert all(one.number > last for one in rest)
    numbers = [one.number for one in before + rest]
    assert numbers == sorted(set(numbers))
    assert text(before) + text(rest) == text(ALL)
    assert others(before + rest) == others(ALL)


THOUGHTS = Head((), '{"t":', "}", reasoning=('{"r":', "}"))
REASONED = [
    queued(),
    *attempt(1, THOUGHTS, *(Text(f"{n}", n % 5 < 3) for n in range(30)), Frames((CLOSED,))),
    end(),
]


@given(st.integers(0, 40), *(st.lists(st.integers(1, 20), min_size=1),) * 2)
def test_a_cut_keeps_reasoning_and_answer_apart(cut: int, first: list[int], second: list[int]) -> None:
    before = [one for one in read(REASONED, groups=first) if one.number <= cut]
    rest = read(REASONED, before[-1].number if before else 0, groups=second)
    said = [one.data for one in before + rest if one.data != "[DONE]"]
    order = "".join(key + part for one in said for key in "rt" for part in one.get(key, ""))
    assert re.sub(r"[rt]", "", order) == "".join(f"{n}" for n in range(30))
    thoughts = "".join(one.get("r", "") for one in said)
    assert thoughts == "".join(f"{n}" for n in range(30) if n % 5 < 3)


LOST = [queued(), *attempt(1, HEAD, Text("a"), Text("b")), queued(1)]
AGAIN = [*LOST, *attempt(2, HEAD, Text("c"), Frames((CLOSED,))), end(attempt=2)]


def test_a_reader_of_a_lost_attempt_gets_an_error_after_which_it_resumes() -> None:
    live = read(AGAIN)
    assert [one.data.get("t") for one in live[:-1]] == [None, "a", "b"]
    error = live[-1]
    assert error.data["error"]["code"] == "worker_lost"
    assert f"starting_after={error.number}" in error.data["error"]["message"]
    rest = read(AGAIN, error.number, attempt=2)
    assert rest[0].number == error.number + 1
    assert text(rest) == "c"
    assert rest[-1].data == "[DONE]"


def test_who_was_cut_in_a_lost_attempt_gets_the_error_alone() -> None:
    for after in (1, 2, 3):
        (error,) = read(AGAIN, after, attempt=2)
        assert (error.number, error.data["error"]["code"]) == (4, "worker_lost")


def test_a_new_reader_sees_no_lost_attempt() -> None:
    found = read(AGAIN, attempt=2)
    assert (found[0].number, text(found)) == (5, "c")
    assert found == read(AGAIN, 4, attempt=2)


def test_attempts_without_output_are_not_told() -> None:
    log = [queued(), *attempt(1), queued(1), *attempt(2, *SAID), end(attempt=2)]
    found = read(log)
    assert text(found) == text(ALL)
    assert [one.number for one in found] == [one.number + 1 for one in ALL]


def test_a_failure_is_an_event_with_a_number() -> None:
    log = [queued(), *attempt(1, HEAD, Text("a")), end("cancelled")]
    found = read(log)
    assert (found[-1].number, found[-1].data["error"]["code"]) == (3, "job_cancelled")
    assert read(log, 2) == found[-1:]
    assert read(log, 3) == []


def test_a_stream_without_a_closing_chunk_gets_one() -> None:
    log = [queued(), *attempt(1, HEAD, Text("a")), end()]
    found = read(log)
    assert found[-2].data["choices"] == []
    for cut in range(len(found) + 1):
        assert read(log, cut) == found[cut:]


def test_events_have_their_names() -> None:
    said = ('{"type":"response.created","response":{"id":"r"}}', '{"type":"response.completed"}')
    log = [queued(), *attempt(1, Frames(said)), end()]
    found = read(log, endpoint=RESPONSES, shown={"store": True})
    created = {"type": "response.created", "response": {"id": "r", "store": True}}
    assert found == [
        Event(1, "response.created", created),
        Event(2, "response.completed", {"type": "response.completed"}),
    ]
    assert read(log, 1, endpoint=RESPONSES, shown={}) == found[1:]
    (error,) = read([queued(), end("cancelled", 0)], endpoint=RESPONSES)
    assert (error.name, error.data["error"]["code"]) == ("error", "job_cancelled")


def test_a_stream_that_breaks_can_be_resumed_where_it_was() -> None:
    stream = ResumableStream(JOB, CHAT)
    sent = events(stream.feed(LOG[:-1]) + stream.fail(ApiError(500, "broken", "internal_error")))
    assert (sent[-1].number, sent[-1].data["error"]["code"]) == (0, "internal_error")
    rest = read(LOG, sent[-2].number)
    assert text(sent[:-1]) + text(rest) == text(ALL)
    assert others(sent[:-1] + rest) == others(ALL)


def test_the_events_that_end_a_stream_wait_for_the_jobs_end() -> None:
    last = '{"type":"response.completed","response":{"status":"incomplete"}}'
    log = [queued(), *attempt(1, Frames(('{"type":"a"}', last))), end()]
    assert [one.name for one in read(log[:-1], endpoint=RESPONSES)] == ["a"]
    found = read(log, endpoint=RESPONSES)
    assert [(one.number, one.name, one.data["type"]) for one in found[1:]] == [
        (2, "response.incomplete", "response.incomplete")
    ]
    said = ('{"type":"message_start"}', '{"type":"message_delta"}', '{"type":"message_stop"}')
    log = [queued(), *attempt(1, Frames(said)), end()]
    assert [one.number for one in read(log[:-1], endpoint=MESSAGES)] == [1]
    assert [one.number for one in read(log, endpoint=MESSAGES)] == [1, 2, 3]
    assert [one.number for one in read(log, 2, endpoint=MESSAGES)] == [3]


def test_a_caller_without_a_head_gets_no_event_of_a_refusal() -> None:
    refused = [queued(), *attempt(1), end("failed")]
    assert read(refused, headless=True) == []
    (error,) = read(refused)
    assert error.data["error"]["code"] == "internal_error"
    seen = [queued(), *attempt(1, HEAD), end("failed")]
    assert len(read(seen, headless=True)) == 2
