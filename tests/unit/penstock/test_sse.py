"""The SSE parser against the standard's own examples, a plain reference, and every way to cut a stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.sse import ServerSentEvent, SSEParser


def parse(stream: bytes) -> list[tuple[str, str, str]]:
    return [(e.event, e.data, e.id) for e in SSEParser().feed(stream)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # The examples of the standard, section 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
            [("message", "first event", "1"), ("message", "second event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
        # Line ends, and what is none.
        (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb", "")]),
        (b"data: a\rdata: b\r\r", [("message", "a\nb", "")]),
        ("data: a\u2028b\x0bc\n\n".encode(), [("message", "a\u2028b\x0bc", "")]),
        # Fields.
        (b"event: chunk\nid: 7\ndata: {}\n\n", [("chunk", "{}", "7")]),
        (b"event: lost\n\ndata: x\n\n", [("message", "x", "")]),
        (b"id: 7\n\ndata: x\n\n", [("message", "x", "7")]),
        (b"id: 7\ndata: a\n\ndata: b\n\n", [("message", "a", "7"), ("message", "b", "7")]),
        (b"id: a\0b\ndata: x\n\n", [("message", "x", "")]),
        (b"unknown: 1\nnonsense\ndata: x\n\n", [("message", "x", "")]),
        (b"data: cut off", []),
        # Encoding.
        (b"\xef\xbb\xbfdata: x\n\n", [("message", "x", "")]),
        ("data: g\u00fc\U0001f600\n\n".encode(), [("message", "g\u00fc\U0001f600", "")]),
        (b"data: \xff\n\n", [("message", "\ufffd", "")]),
    ],
)
def test_streams(stream, events):
    assert parse(stream) == events


NO_BREAK = st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])
LINES = st.one_of(
    st.sampled_from(
        ["", "", "data", "data:", "data: x", "id: 7", "id", "event: chunk", "retry: 20", ": ping"]
    ),
    st.text(NO_BREAK, max_size=12),
    st.text(NO_BREAK, max_size=12).map("data: ".__add__),
)


@given(
    lines=st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_any_split_gives_the_same_events(lines, cuts):
    stream = "".join(line + end for line, end in lines).encode()
    whole, pieces = SSEParser(), SSEParser()
    expected = whole.feed(stream)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found: list[ServerSentEvent] = []
    for start, end in pairwise(places):
        found += pieces.feed(stream[start:end])
    assert found == expected
    assert (pieces.last_id, pieces.retry_ms, pieces.comments) == (
        whole.last_id,
        whole.retry_ms,
        whole.comments,
    )


@given(
    st.lists(st.tuples(st.text("ab:\u2028 {}", max_size=9), st.text("0123456789", min_size=1, max_size=4)))
)
def test_what_is_written_is_read_byte_by_byte(events):
    stream = "".join(f"id: {key}\nevent: chunk\ndata: {data}\n\n" for data, key in events).encode()
    parser = SSEParser()
    found = [event for byte in stream for event in parser.feed(bytes([byte]))]
    assert found == [ServerSentEvent("chunk", data, key) for data, key in events]


def test_an_event_is_given_at_its_blank_line_not_later():
    parser = SSEParser()
    assert parser.feed(b"data: x\r\n\r") == [ServerSentEvent("message", "x", "")]
    assert parser.feed(b"\n") == []


def test_the_cursor_is_that_of_the_last_complete_event():
    parser = SSEParser("6")
    parser.feed(b"id: 7\ndata: x\n\nid: 8\ndata: y\n")
    assert parser.last_id == "7"


def test_retry_takes_digits_only():
    parser = SSEParser()
    parser.feed(b"retry: 1500\nretry: soon\nretry: \xd9\xa3\n")
    assert parser.retry_ms == 1500


def test_a_long_line_in_small_pieces_is_linear():
    parser = SSEParser()
    parser.feed(b"data: ")
    for _ in range(200_000):
        parser.feed(b"xxxx")
    (event,) = parser.feed(b"\n\n")
    assert len(event.data) == 800_000
