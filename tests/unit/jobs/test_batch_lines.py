"""The output lines of a batch."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch_lines import (
    NEVER_RAN_MESSAGES,
    NeverRan,
    never_ran_line,
    response_line,
)
from jobs.batch_rows import custom_id_of


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), st.integers(200, 599))
def test_output_lines_are_one_line_of_json(custom_id: str, status: int) -> None:
    text = response_line("r", custom_id, status, b'{\n "a": "b"\n}', "q")
    assert text.count(b"\n") == 1
    assert msgspec.json.decode(text) == {
        "id": "r",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": "q", "body": {"a": "b"}},
        "error": None,
    }
    assert custom_id_of(text) == custom_id


@pytest.mark.parametrize("why", NeverRan)
def test_rows_that_never_ran(why: NeverRan) -> None:
    told = json.loads(never_ran_line("r", "a", why))
    error = {"code": why.value, "message": NEVER_RAN_MESSAGES[why]}
    assert told == {"id": "r", "custom_id": "a", "response": None, "error": error}
