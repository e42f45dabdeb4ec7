from __future__ import annotations

import json
import tracemalloc

import pytest

from jobs.batch_rows import RowError, RowErrorCode, Rules, check_line, read_row
from jobs.endpoints import BATCH_ENDPOINTS

CHAT = "/v1/chat/completions"
RULES = Rules(CHAT, "m")
GOOD = {
    "custom_id": "a",
    "method": "POST",
    "url": CHAT,
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


def line(**changes: object) -> bytes:
    fields = {**GOOD, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def body(**changes: object) -> dict[str, object]:
    return {**GOOD["body"], **changes}  # type: ignore[dict-item]


def test_a_good_line() -> None:
    assert check_line(line(), 1, RULES) == ("a", "m")
    assert check_line(line(method=...), 1, Rules(CHAT)) == ("a", "m")
    assert check_line(line() + b"\r", 1, RULES) == ("a", "m")
    row = read_row(line())
    assert (row.custom_id, json.loads(row.body)) == ("a", GOOD["body"])


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"{", RowErrorCode.INVALID_JSON_LINE, None),
        (b"not json", RowErrorCode.INVALID_JSON_LINE, None),
        (b"\xff\xfe", RowErrorCode.INVALID_JSON_LINE, None),
        (b'"text"', RowErrorCode.INVALID_JSON_LINE, None),
        (b"[1]", RowErrorCode.INVALID_JSON_LINE, None),
        (b"[" * 100_000, RowErrorCode.INVALID_JSON_LINE, None),
        (line(custom_id=...), RowErrorCode.INVALID_REQUEST, "custom_id"),
        (line(custom_id=7), RowErrorCode.INVALID_REQUEST, "custom_id"),
        (line(custom_id=""), RowErrorCode.INVALID_REQUEST, "custom_id"),
        (line(custom_id="x" * 513), RowErrorCode.INVALID_REQUEST, "custom_id"),
        (line(method="GET"), RowErrorCode.INVALID_REQUEST, "method"),
        (line(url=...), RowErrorCode.INVALID_REQUEST, "url"),
        (line(url="/v1/completions"), RowErrorCode.URL_MISMATCH, "url"),
        (line(body=...), RowErrorCode.INVALID_REQUEST, "body"),
        (line(body="x"), RowErrorCode.INVALID_REQUEST, "body"),
        (line(body=body(model=None)), RowErrorCode.INVALID_REQUEST, "body.model"),
        (line(body=body(model=3)), RowErrorCode.INVALID_REQUEST, "body"),
        (line(body=body(model="other")), RowErrorCode.MODEL_MISMATCH, "body.model"),
        (line(body=body(stream=True)), RowErrorCode.INVALID_REQUEST, "body.stream"),
        (line(body={"model": "m"}), RowErrorCode.INVALID_REQUEST, "body.messages"),
    ],
)
def test_bad_lines(text: bytes, code: RowErrorCode, param: str | None) -> None:
    found = check_line(text, 17, RULES)
    assert isinstance(found, RowError)
    assert (found.code, found.line, found.param) == (code, 17, param)
    assert found.message


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, None),
        ({"background": False, "previous_response_id": None, "stream": False, "conversation": None}, None),
        ({"input": [{"role": "user", "content": "hi"}]}, None),
        ({"input": None}, "body.input"),
        ({"background": True}, "body.background"),
        ({"background": "yes"}, "body.background"),
        ({"previous_response_id": "resp_1"}, "body.previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "body.conversation"),
        ({"stream": True}, "body.stream"),
    ],
)
def test_rows_of_responses_stand_for_themselves(given: dict[str, object], param: str | None) -> None:
    text = line(url="/v1/responses", body={"model": "m", "input": "hi", **given})
    found = check_line(text, 17, Rules("/v1/responses"))
    if param is None:
        assert found == ("a", "m")
    else:
        assert isinstance(found, RowError)
        assert (found.code, found.line, found.param) == (RowErrorCode.INVALID_REQUEST, 17, param)
        assert found.message.startswith(param)


def test_what_rows_of_responses_must_leave_out_others_may_have() -> None:
    assert check_line(line(body=body(background=True, conversation="c")), 1, RULES) == ("a", "m")


@pytest.mark.parametrize("endpoint", BATCH_ENDPOINTS)
def test_every_endpoint_has_its_prompt(endpoint: str) -> None:
    given = {"messages": [], "prompt": "x", "input": "x", "query": "x", "queries": "x"}
    text = line(url=endpoint, body={"model": "m", **given})
    assert check_line(text, 1, Rules(endpoint)) == ("a", "m")
    assert isinstance(check_line(line(url=endpoint, body={"model": "m"}), 1, Rules(endpoint)), RowError)


@pytest.mark.parametrize(
    "line",
    [
        b"[" + b"[]," * 100_000 + b"[]]",
        b'{"custom_id": 5, "body": [' + b"[]," * 100_000 + b"[]]}",
        b'{"custom_id": "a", "url": 1, "body": {"messages": [' + b"{}," * 100_000 + b"{}]}}",
    ],
)
def test_a_wrong_line_is_not_made_into_objects(line: bytes) -> None:
    tracemalloc.start()
    try:
        assert isinstance(check_line(line, 1, RULES), RowError)
        assert tracemalloc.get_traced_memory()[1] < 100_000  # the objects would take 5 MB
    finally:
        tracemalloc.stop()
