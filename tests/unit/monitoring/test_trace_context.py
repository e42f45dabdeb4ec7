"""W3C Trace Context, as the recommendation's own examples and rules have it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.trace_context import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_it_reads_the_recommendations_example() -> None:
    context = TraceContext.read(PARENT, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    assert context == TraceContext(TRACE, SPAN, sampled=True, state="rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    assert context.headers() == {"traceparent": PARENT, "tracestate": context.state}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f" {PARENT}",
    ],
)
def test_what_is_not_valid_is_no_trace(parent: str) -> None:
    assert TraceContext.read(parent) is None


def test_a_version_of_the_future_is_read_as_far_as_it_is_known() -> None:
    assert TraceContext.read(f"42-{TRACE}-{SPAN}-03-what-ever") == TraceContext(TRACE, SPAN, sampled=True)


def test_a_state_that_is_too_long_is_dropped_whole() -> None:
    assert TraceContext.read(PARENT, "a=" + "b" * 511).state == ""


@given(sampled=st.booleans(), state=st.from_regex(r"\A([a-z]{1,9}=[!-+\--<>-~]{1,9}(,|\Z)){0,3}\Z"))
def test_a_record_gives_back_what_was_put_in(sampled: bool, state: str) -> None:
    context = TraceContext(TRACE, SPAN, sampled, state)
    assert TraceContext.decode(context.encode()) == context


def test_what_a_record_lacks_is_no_trace() -> None:
    assert TraceContext.decode(None) is None
    assert TraceContext.decode("") is None
    assert TraceContext.decode("nonsense") is None


def test_new_traces_and_children_differ() -> None:
    one, two = TraceContext.new(sampled=True), TraceContext.new(sampled=True)
    assert one.trace_id != two.trace_id
    child = one.child()
    assert (child.trace_id, child.sampled) == (one.trace_id, True)
    assert child.span_id != one.span_id
    assert TraceContext.read(one.parent) == one
