"""The events of a response's stream: numbers that only rise, the same for every reader, wherever the log was cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.event_frames import NumberedStream, ResponseStream, end_type
from penstock._core.sse import SSEParser

Entry = tuple[str, str]

QUEUED = b'{"id":"resp_1","status":"queued"}'
DONE = b'{"id":"resp_1","status":"completed"}'
SHOWN = {"id": "resp_1"}


def read(data: bytes) -> list[dict[str, Any]]:
    events = SSEParser("").feed(data)
    parsed = [json.loads(event.data) for event in events]
    assert [event.event for event in events] == [one["type"] for one in parsed]
    return parsed


def attempt(number: int, sizes: Sequence[int], *, whole: bool = True, numbers: bool = True) -> list[Entry]:
    """The log of one attempt: its state, events in entries of these sizes, and the event that ends it.

    ``numbers``: the engine numbers its events.
    """
    kinds = ["created", "in_progress", *["output_text.delta"] * sum(sizes), *(["completed"] if whole else [])]
    events = [
        json.dumps(
            {"type": f"response.{kind}"}
            | ({"sequence_number": at} if numbers else {})
            | ({"delta": f"{number}-{at}"} if kind.endswith("delta") else {"response": {"status": kind}})
        )
        for at, kind in enumerate(kinds)
    ]
    entries = [(f"{number}-0", f's{{"state":"running","attempt":{number}}}')]
    seq = 0
    for size in (2, *sizes, 1):
        part, events = events[:size], events[size:]
        if part:
            seq += 1
            entries.append((f"{number}-{seq}", "j" + "\n".join(part)))
    return entries


def lost(number: int) -> Entry:
    return f"{number}-4294967294", f's{{"state":"queued","attempt":{number}}}'


END: Entry = ("9-4294967295", 'e{"state":"succeeded","attempt":9,"created":0,"finished":5000}')
FIRST: Entry = ("0-1", 's{"state":"queued","attempt":0}')

sizes = st.lists(st.integers(1, 4), max_size=4)


def numbered(log: list[Entry], cuts: Sequence[int], after: int = -1) -> list[dict[str, Any]]:
    """Read a log whose entries come in groups, as a reader who has the event ``after``."""
    stream = NumberedStream(QUEUED, SHOWN, after)
    data = stream.begin()
    bounds = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    for begin, end in itertools.pairwise(bounds):
        data += stream.feed(log[begin:end])
    assert stream.over
    return read(data + stream.end(DONE))


@given(
    st.lists(st.tuples(sizes, st.booleans()), min_size=1, max_size=3),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_a_background_stream(runs: list[tuple[list[int], bool]], cuts: list[int]) -> None:
    log = [FIRST]
    for number, (sizes_, whole) in enumerate(runs, 1):
        log += attempt(number, sizes_, whole=whole or number == len(runs))
        if number < len(runs):
            log.append(lost(number))
    events = numbered([*log, END], cuts)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "queued"]
    assert kinds.count("created") == 1, "an engine's own is left out"
    assert kinds.count("queued") == len(runs), "one for each attempt"
    assert [kind for kind in kinds if kind == "completed"] == ["completed"] == kinds[-1:]
    assert kinds.count("output_text.delta") == sum(sum(sizes_) for sizes_, _ in runs)
    for after in range(len(events) + 1):
        assert numbered([*log, END], cuts[::2], after) == events[after + 1 :]


@pytest.mark.parametrize("after", [-1, 0, 1, 2, 3, 9])
def test_a_background_stream_whose_log_is_gone_has_its_end(after: int) -> None:
    """The record is there still, and the hub makes the end from it. No reader asks again and again."""
    *_, end = numbered([END], [], after)
    assert end == {
        "type": "response.completed",
        "response": {"id": "resp_1", "status": "completed"},
        "sequence_number": max(2, after + 1),
    }


@given(sizes, st.integers(-1, 30), st.booleans())
def test_a_live_stream_has_the_engines_numbers_or_ours(
    sizes_: list[int],
    after: int,
    numbers: bool,
) -> None:
    log = [FIRST, *attempt(1, sizes_, numbers=numbers), END]
    events = read(ResponseStream("job_1", SHOWN, after).feed(log))
    count = 3 + sum(sizes_)
    assert [event["sequence_number"] for event in events] == list(range(after + 1, count))
    if after < count - 1:
        assert events[-1] == {
            "type": "response.completed",
            "sequence_number": count - 1,
            "response": {"status": "completed", "id": "resp_1"},
        }


def test_a_lost_attempt_ends_a_live_stream_that_has_output() -> None:
    stream = ResponseStream("job_1", SHOWN)
    log = [FIRST, *attempt(1, [2], whole=False), lost(1), *attempt(2, [1]), END]
    *before, error = read(stream.feed(log))
    assert [event["sequence_number"] for event in before] == [0, 1, 2, 3]
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "worker_lost", 4)
    assert error["error"]["message"] == error["message"]
    assert (stream.error_code, stream.over, stream.unsaid) == ("worker_lost", True, False)


def test_one_that_was_lost_before_output_begins_anew() -> None:
    stream = ResponseStream("job_1", SHOWN)
    log = [FIRST, ("1-0", 's{"state":"running","attempt":1}'), lost(1), *attempt(2, [1]), END]
    assert [event["sequence_number"] for event in read(stream.feed(log))] == [0, 1, 2, 3]


def test_a_job_without_events_is_ended_from_its_record() -> None:
    stream = ResponseStream("job_1", SHOWN)
    assert stream.feed([FIRST, END]) == b""
    assert (stream.over, stream.unsaid, stream.sent) == (True, True, False)
    (event,) = read(stream.end(DONE))
    assert (event["type"], event["sequence_number"]) == ("response.completed", 0)


def test_the_last_event_says_the_status() -> None:
    for status in ("completed", "incomplete", "failed"):
        assert end_type(b'{"status":"%b"}' % status.encode()) == f"response.{status}"
    assert end_type(b'{"status":"cancelled"}') == "response.failed"
