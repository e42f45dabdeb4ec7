"""The table of log events has each event that the code logs, and no other."""

from __future__ import annotations

from monitoring.events import EVENTS
from tools.log_events import log_calls

CALLS = log_calls()


def test_every_event_in_the_code_is_in_the_table() -> None:
    unknown = {call.event: call.module for call in CALLS if call.event not in EVENTS}
    assert not unknown, "say what they mean in monitoring/events.py, then run tools/gen_docs.py"


def test_every_event_in_the_table_is_in_the_code() -> None:
    assert not set(EVENTS) - {call.event for call in CALLS}


def test_the_table_is_sorted_and_says_something() -> None:
    assert list(EVENTS) == sorted(EVENTS)
    assert all(sentence.endswith((".", "`.")) for sentence in EVENTS.values())


def test_no_field_is_named_as_one_that_every_line_has() -> None:
    taken = {"timestamp", "level", "event", "service", "logger", "trace_id"}
    assert not [(call.event, call.module) for call in CALLS if taken & set(call.fields)]
