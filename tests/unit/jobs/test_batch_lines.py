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
    Response,
    never_ran_line,
)
from jobs.batch_rows import custom_id_of


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), st.integers(200, 599))
def test_output_lines_are_one_line_of_json(custom_id: str, status: int) -> None:
    text = b"".join(Response(status, b'{\n "a": "b"\n}', "q-1").line("q", custom_id, "q-1"))
    assert text.count(b"\n") == 1
    assert msgspec.json.decode(text) == {
        "id": "q",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": "q", "body": {"a": "b"}},
        "error": None,
    }
    assert custom_id_of(text) == custom_id


def test_rows_that_share_a_response_have_ids_of_their_own() -> None:
    body = b'{"id":"chatcmpl-row_1-7","choices":[{"text":"100% row_1-7"}]}'
    response = Response(200, body, "row_1-7")
    first, second = response.line("row_1", "a", "row_1-7"), response.line("row_22", "b", "row_22-7")
    assert first[1] is second[1]
    assert json.loads(b"".join(first))["response"]["body"] == json.loads(body)
    told = json.loads(b"".join(second))
    assert (told["id"], told["custom_id"], told["response"]["request_id"]) == ("row_22", "b", "row_22")
    assert told["response"]["body"] == {
        "id": "chatcmpl-row_22-7",
        "choices": [{"text": "100% row_1-7"}],
    }


@pytest.mark.parametrize("why", NeverRan)
def test_rows_that_never_ran(why: NeverRan) -> None:
    told = json.loads(never_ran_line("r", "a", why))
    error = {"code": why.value, "message": NEVER_RAN_MESSAGES[why]}
    assert told == {"id": "r", "custom_id": "a", "response": None, "error": error}
