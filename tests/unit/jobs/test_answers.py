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


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"detail": "the pump is off"}, "the pump is off"),
        (
            {"detail": [{"loc": ["body", "top_n"], "msg": "not a number", "type": "int"}]},
            "body.top_n: not a number",
        ),
        ({"error": "model 'm' is too large"}, "model 'm' is too large"),
        ({"message": "slow down", "type": "x"}, "slow down"),
        ({"error": {"code": 7}}, '{"error":{"code":7}}'),
        ("out of order", "out of order"),
        (None, "null"),
    ],
)
@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
def test_an_error_in_another_shape_keeps_its_words(answer: object, words: str, status: int) -> None:
    told, body = json_or_failure(status, json.dumps(answer, separators=(",", ":")).encode())
    error = json.loads(body)["error"]
    assert (told, error["message"]) == (status, words)
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize(
    "answer",
    [
        b'{"detail":"Not Found"}',
        b"<html>404</html>",
        b"{}",
        b'{"error":{"message":"Not Found","code":404}}',
        b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}',
        b'{"error":{"message":"Invalid URL (POST /v1/rerank)","type":"invalid_request_error","code":null}}',
    ],
)
def test_a_path_that_an_engine_does_not_have_is_unsupported(status: int, answer: bytes) -> None:
    told, body = json_or_failure(status, answer)
    error = json.loads(body)["error"]
    assert (told, error["code"], error["type"]) == (400, "unsupported", "invalid_request_error")
    assert "does not serve this endpoint" in error["message"]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"error": {"message": "The model `m` does not exist.", "type": "invalid_request_error", "code": null}}',
        b'{"error": {"message": "no m", "type": "invalid_request_error", "code": "model_not_found"}}',
        b'{"type": "error", "error": {"type": "not_found_error", "message": "no model m"}}',
    ],
)
def test_an_error_that_clients_can_read_stays_as_it_is(answer: bytes) -> None:
    assert json_or_failure(404, answer) == (404, answer)


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (400, "temperature must be in [0, 2], got 7.0.", "invalid_request_error", "invalid_request"),
        (
            400,
            "This model's maximum context length is 9 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
        ),
        (404, "The model `m` does not exist.", "invalid_request_error", "model_not_found"),
        (500, "out of memory", "server_error", "engine_error"),
    ],
)
def test_vllms_errors_get_openais_type_and_code(status: int, message: str, kind: str, code: str) -> None:
    theirs = {"message": message, "type": "SomeError", "param": "temperature", "code": status}
    told, body = json_or_failure(status, json.dumps({"error": theirs}).encode())
    assert told == status
    assert json.loads(body) == {"error": {**theirs, "type": kind, "code": code}}
    bare = json_or_failure(status, json.dumps({"error": {"message": message}}).encode())[1]
    assert json.loads(bare) == {"error": {"message": message, "type": kind, "param": None, "code": code}}


def test_an_error_in_anthropics_frame_gets_a_type_of_anthropics() -> None:
    framed = {"type": "error", "error": {"type": "BadRequestError", "message": "why"}}
    status, body = json_or_failure(400, json.dumps(framed).encode())
    assert (status, json.loads(body)) == (
        400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "why"}},
    )


def test_an_error_that_nests_deeply_is_told() -> None:
    deep = b'{"detail":' * 900 + b"1" + b"}" * 900
    status, body = json_or_failure(500, deep)
    assert (status, json.loads(body)["error"]["code"]) == (500, "engine_error")
