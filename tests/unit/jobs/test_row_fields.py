"""Fields of a batch's rows that their endpoint does not have: noted with their first line, and few."""

from __future__ import annotations

import json

import pytest

from jobs.batch_rows import RowError, RowErrorCode, Rules, check_line, unknown_parameters
from jobs.endpoints import BATCH_ENDPOINTS, CHAT, ENDPOINTS
from jobs.known_fields import KNOWN_FIELDS
from jobs.row_fields import MOST_LENGTH, MOST_NAMES, UnknownFields

NOT_HERE = {"background", "previous_response_id", "conversation"}
"""Fields of a response that a row must not have."""


def raw(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [], **fields}).encode()


def check(
    fields: UnknownFields, body: bytes, number: int, endpoint: str = CHAT
) -> tuple[str, str] | RowError:
    line = b'{"custom_id": "a", "url": "%s", "body": %s}' % (endpoint.encode(), body)
    return check_line(line, number, Rules(endpoint), fields)


def test_each_unknown_name_is_noted_with_its_first_line() -> None:
    fields = UnknownFields(CHAT)
    rows: list[dict[str, object]] = [
        {},
        {"max_tokens": 3},
        {"max_token": 3},
        {"temprature": 0, "seed": 1},
        {"max_token": 4},
        {"a b": 1},
        {"a b": 1},
    ]
    for number, more in enumerate(rows, 1):
        assert check(fields, raw(**more), number) == ("a", "m")
    assert fields.found == {"max_token": 3, "temprature": 4, "a b": 6}
    token, *_ = unknown_parameters(CHAT, fields.found)
    assert (token.code, token.line, token.param) == (RowErrorCode.UNKNOWN_PARAMETER, 3, "body.max_token")
    assert "did you mean 'max_tokens'?" in token.message


@pytest.mark.parametrize("endpoint", BATCH_ENDPOINTS)
def test_every_known_field_may_be_in_a_row(endpoint: str) -> None:
    prompt = ENDPOINTS[endpoint].prompt_fields[0]
    known = dict.fromkeys(KNOWN_FIELDS[endpoint] - {"stream", *NOT_HERE}, "m")
    few = {"model": "m", prompt: "m"}
    fields = UnknownFields(endpoint)
    for number, body in enumerate([few, known, few], 1):
        assert check(fields, json.dumps(body).encode(), number, endpoint) == ("a", "m")
    assert fields.found == {}


def test_the_prompt_of_another_endpoint_is_unknown() -> None:
    fields = UnknownFields(CHAT)
    check(fields, raw(), 1)
    check(fields, raw(prompt="hi"), 2)
    check(fields, raw(input="hi"), 3)
    assert fields.found == {"prompt": 2, "input": 3}


def test_the_first_names_are_noted_shortened() -> None:
    fields = UnknownFields(CHAT)
    check(fields, raw(**{"x" * 1000: 1}), 1)
    check(fields, raw(**{f"y{number}": 1 for number in range(100_000)}), 2)
    assert check(fields, raw(z=1), 3) == ("a", "m")
    assert list(fields.found) == ["x" * MOST_LENGTH, *(f"y{number}" for number in range(MOST_NAMES - 1))]


@pytest.mark.parametrize(
    "body", [b'{"model": 5}', b'{"max_token": 1, "stream": "yes"}', b"[]", b'{"model": "\xff"}']
)
def test_the_fields_of_a_wrong_body_are_not_noted(body: bytes) -> None:
    fields = UnknownFields(CHAT)
    for number in (1, 2):
        assert isinstance(check(fields, body, number), RowError)
        assert fields.found == {}
        assert check(fields, raw(max_tokens=3), number) == ("a", "m")


def test_a_name_that_is_not_utf_8_is_passed_on() -> None:
    fields = UnknownFields(CHAT)
    assert check(fields, b'{"model": "m", "messages": [], "\xff": 1}', 1) == ("a", "m")
    assert fields.found == {}


@pytest.mark.parametrize("name", ["max-tokens", "a b", "größe", "", 'a"b', "a\\b", "a\nb", "x" * 1000])
def test_a_name_of_any_form_is_noted_once(name: str) -> None:
    fields = UnknownFields(CHAT)
    for number in (1, 2, 3):
        assert check(fields, raw(**{name: 1}), number) == ("a", "m")
    assert fields.found == {name[:MOST_LENGTH]: 1}


@pytest.mark.parametrize("name", ["max_tokens", "max_token", "max-tokens", "größe"])
def test_a_line_is_read_a_second_time_only_if_it_has_a_new_name(name: str) -> None:
    fields = UnknownFields(CHAT)
    line = b'{"custom_id": "a", "url": "%s", "body": %s}' % (CHAT.encode(), raw(**{name: 1}))
    assert fields.read(line) is None
    check_line(line, 1, Rules(CHAT), fields)
    assert fields.read(line) is not None


def test_no_line_is_read_a_second_time_once_no_more_names_are_noted() -> None:
    fields = UnknownFields(CHAT)
    check(fields, raw(**{f"y{number}": 1 for number in range(MOST_NAMES)}), 1)
    assert fields.read(b'{"custom_id": "a", "url": "u", "body": %s}' % raw(z=1)) is not None
