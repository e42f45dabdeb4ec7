from __future__ import annotations

import json
import tracemalloc

import pytest

from jobs.batch_rows import RowError, RowErrorCode, Rules, check_line, read_row
from jobs.endpoints import BATCH_ENDPOINTS
from jobs.row_fields import UnknownFields

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


def check(text: bytes, number: int, rules: Rules) -> tuple[str, str] | RowError:
    return check_line(text, number, rules, UnknownFields(rules.endpoint))


def test_a_good_line() -> None:
    assert check(line(), 1, RULES) == ("a", "m")
    assert check(line(method=...), 1, Rules(CHAT)) == ("a", "m")
    assert check(line() + b"\r", 1, RULES) == ("a", "m")
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
        (line(body=body(model=3)), RowErrorCode.INVALID_REQUEST, "body.model"),
        (line(body=body(model="other")), RowErrorCode.MODEL_MISMATCH, "body.model"),
        (line(body=body(stream=True)), RowErrorCode.INVALID_REQUEST, "body.stream"),
        (line(body={"model": "m"}), RowErrorCode.INVALID_REQUEST, "body.messages"),
    ],
)
def test_bad_lines(text: bytes, code: RowErrorCode, param: str | None) -> None:
    found = check(text, 17, RULES)
    assert isinstance(found, RowError)
    assert (found.code, found.line, found.param) == (code, 17, param)
    assert found.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (line(custom_id=""), "custom_id: it is empty; give the row an id of its own"),
        (line(custom_id="x" * 513), "custom_id: it has 513 characters; give"),
        (line(custom_id=7), "custom_id: it must be a text, not a number"),
        (line(custom_id=...), "custom_id: Field required; each line is one request: {"),
        (line(url=...), "url: Field required; each line"),
        (line(body=...), "body: Field required; each line"),
        (line(body={}), "body.model: name a model; GET /v1/models lists"),
        (line(body=body(model="")), "body.model: name a model; GET /v1/models lists"),
        (line(body=body(model=3)), "body.model: it must be a text, not a number"),
        (line(body=[]), "body: it must be a JSON object, not a list"),
        (line(body=None), "body: it must be a JSON object, not null"),
        (
            line(body=body(model="b")),
            "body.model is 'b', but the first request's is 'm'; a batch has one model",
        ),
        (b"[1]", "the line is not a JSON object; each line is one request: {"),
        (
            b"{",
            "the line is a part of a JSON object; write each object on one line. To convert: jq -c . FILE",
        ),
        (
            b"\xef\xbb\xbf" + line(),
            "the line begins with a byte order mark; save the file as UTF-8 without one",
        ),
        (line().decode().encode("utf-16"), "the line is UTF-16; save the file as UTF-8"),
    ],
)
def test_an_error_names_the_field_and_what_to_do(text: bytes, words: str) -> None:
    found = check(text, 17, RULES)
    assert isinstance(found, RowError)
    assert found.message.startswith(words)
    assert found.line == 17


@pytest.mark.parametrize("text", [b"[", b'[{"custom_id": "a"},', b"[" + line() + b"]"])
def test_a_file_that_is_one_array_is_told_how_to_convert(text: bytes) -> None:
    found = check(text, 1, RULES)
    assert isinstance(found, RowError)
    assert "begins a JSON array" in found.message
    assert "jq -c '.[]' FILE" in found.message


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
    found = check(text, 17, Rules("/v1/responses"))
    if param is None:
        assert found == ("a", "m")
    else:
        assert isinstance(found, RowError)
        assert (found.code, found.line, found.param) == (RowErrorCode.INVALID_REQUEST, 17, param)
        assert found.message.startswith(param)


def test_what_rows_of_responses_must_leave_out_others_may_have() -> None:
    assert check(line(body=body(background=True, conversation="c")), 1, RULES) == ("a", "m")


@pytest.mark.parametrize("endpoint", BATCH_ENDPOINTS)
def test_every_endpoint_has_its_prompt(endpoint: str) -> None:
    given = {"messages": [], "prompt": "x", "input": "x", "query": "x", "queries": "x"}
    text = line(url=endpoint, body={"model": "m", **given})
    assert check(text, 1, Rules(endpoint)) == ("a", "m")
    assert isinstance(check(line(url=endpoint, body={"model": "m"}), 1, Rules(endpoint)), RowError)


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
        assert isinstance(check(line, 1, RULES), RowError)
        assert tracemalloc.get_traced_memory()[1] < 100_000  # the objects would take 5 MB
    finally:
        tracemalloc.stop()
