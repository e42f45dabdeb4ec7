"""What an engine answers becomes JSON, or an error that quotes it."""

from __future__ import annotations

import json

import pytest

from jobs.answers import failure_body, json_or_failure
from jobs.batch_lines import Response
from jobs.failures import FailureCode


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
    parsed = json.loads(b"".join(Response(failed, body, "q").line("r", "a", "q")))
    error = parsed["response"]["body"]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert f"status {status}" in error["message"]
    assert answer[:20].decode(errors="replace") in error["message"]


@pytest.mark.parametrize("answer", [b"{}", b' {"a":\r\n [1]}\n', b"null", b'"text"', '{"ä": 1}'.encode()])
def test_an_answer_that_is_json_stays_as_it_is(answer: bytes) -> None:
    assert json_or_failure(200, answer) == (200, answer)
    line = b"".join(Response(200, answer, "q").line("r", "a", "q"))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["response"]["body"] == json.loads(answer)
