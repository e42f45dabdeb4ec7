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
    failure_body,
    json_or_failure,
    never_ran_line,
    response_line,
)
from jobs.batch_rows import custom_id_of
from jobs.failures import FailureCode


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


@pytest.mark.parametrize("code", FailureCode)
def test_failures_here_have_openai_s_shape(code: FailureCode) -> None:
    status, told = failure_body(code, "why")
    assert status >= 400
    assert json.loads(told)["error"]["code"] == code.value


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b" \n",
        b"Internal Server Error",
        b"<html>\n<body>429</body>\n</html>",
        b'{"a": 1',
        b'{"a": 1}{"a": 2}',
        b'"\xff"',
        b"1, 2",
        b"[" * 960 + b"]" * 960,
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize(("status", "told"), [(200, 502), (204, 502), (429, 429), (500, 500)])
def test_an_answer_that_is_not_json_becomes_an_error(answer: bytes, status: int, told: int) -> None:
    failed, body = json_or_failure(status, answer)
    assert failed == told
    parsed = json.loads(response_line("r", "a", failed, body, "q"))
    error = parsed["response"]["body"]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert f"status {status}" in error["message"]
    assert answer[:20].decode(errors="replace") in error["message"]


@pytest.mark.parametrize("answer", [b"{}", b' {"a":\r\n [1]}\n', b"null", b'"text"', '{"ä": 1}'.encode()])
def test_an_answer_that_is_json_stays_as_it_is(answer: bytes) -> None:
    assert json_or_failure(200, answer) == (200, answer)
    line = response_line("r", "a", 200, answer, "q")
    assert len(line.splitlines()) == 1
    assert json.loads(line)["response"]["body"] == json.loads(answer)
