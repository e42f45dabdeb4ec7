"""A batch's input: each line is a row, or an error with its line number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from jobs.endpoints import ENDPOINTS, RESPONSES


class RowErrorCode(StrEnum):
    """Why an input file is refused."""

    INVALID_JSON_LINE = "invalid_json_line"
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"
    URL_MISMATCH = "url_mismatch"
    MODEL_MISMATCH = "model_mismatch"
    MODEL_NOT_FOUND = "model_not_found"
    EMPTY_FILE = "empty_file"
    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED = "unsupported"


MAX_CUSTOM_ID = 512
"""Most characters of a ``custom_id``."""


@dataclass(frozen=True, slots=True)
class RowError:
    """An error in an input file. ``line`` counts from 1; None: the whole file."""

    code: RowErrorCode
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One request. ``body`` is the raw JSON of the request's body."""

    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for the rows of one batch. ``model``: None until the first row has named it."""

    endpoint: str
    model: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    messages: msgspec.Raw = msgspec.Raw(b"null")
    prompt: msgspec.Raw = msgspec.Raw(b"null")
    prompt_embeds: msgspec.Raw = msgspec.Raw(b"null")
    input: msgspec.Raw = msgspec.Raw(b"null")
    query: msgspec.Raw = msgspec.Raw(b"null")
    queries: msgspec.Raw = msgspec.Raw(b"null")
    text_1: msgspec.Raw = msgspec.Raw(b"null")
    data_1: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")
    background: msgspec.Raw = msgspec.Raw(b"null")
    previous_response_id: msgspec.Raw = msgspec.Raw(b"null")
    conversation: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    custom_id: str


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_members = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode  # a line may be 64 MB: make no objects of it
_decode_named = msgspec.json.Decoder(_Named).decode
_null = msgspec.Raw(b"null")
_left_out = (_null, msgspec.Raw(b"false"))

_NOT_HERE = {
    RESPONSES: {
        "background": "a batch already runs in the background, and writes its answers to its output file",
        "previous_response_id": "a row continues no other response; put the earlier turns into input",
        "conversation": "a row continues no conversation; put the earlier turns into input",
    }
}
"""By endpoint, the fields that a row's body must not have, and why."""


def read_row(line: bytes) -> Row:
    """Read a line of a validated input.

    Raises:
        ValueError: it is not a request line.
    """
    parsed = _decode_line(line)
    return Row(parsed.custom_id, bytes(parsed.body))


def custom_id_of(line: bytes) -> str:
    """Read the ``custom_id`` of an input or output line.

    Raises:
        ValueError: it has none.
    """
    return _decode_named(line).custom_id


def check_line(line: bytes, number: int, rules: Rules) -> tuple[str, str] | RowError:
    """Check an input line; return (custom_id, model), or the error.

    The caller checks that each ``custom_id`` occurs once and that the model is served.

    Args:
        line: without its newline; not empty.
        number: its number, from 1.
    """
    try:
        row = _decode_line(line)
    except msgspec.ValidationError as error:
        return _wrong_shape(line, number, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"line {number} is not JSON: {error}"
        return RowError(RowErrorCode.INVALID_JSON_LINE, message, number)
    if not 1 <= len(row.custom_id) <= MAX_CUSTOM_ID:
        message = f"custom_id must have 1 to {MAX_CUSTOM_ID} characters"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "custom_id")
    if row.method != "POST":
        message = f"method must be POST, not {row.method[:20]!r}"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "method")
    if row.url != rules.endpoint:
        message = f"url is {row.url[:100]!r}, but the batch's endpoint is {rules.endpoint!r}"
        return RowError(RowErrorCode.URL_MISMATCH, message, number, "url")
    return _check_body(row, number, rules)


def _check_body(row: _Line, number: int, rules: Rules) -> tuple[str, str] | RowError:
    try:
        body = _decode_body(row.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return RowError(RowErrorCode.INVALID_REQUEST, f"body: {error}", number, "body")
    if not body.model:
        return RowError(RowErrorCode.INVALID_REQUEST, "body.model: name a model", number, "body.model")
    if rules.model is not None and body.model != rules.model:
        message = f"the model is {body.model[:100]!r}, but the first request's is {rules.model!r}"
        return RowError(RowErrorCode.MODEL_MISMATCH, message, number, "body.model")
    return _check_fields(body, number, rules.endpoint) or (row.custom_id, body.model)


def _check_fields(body: _Body, number: int, endpoint: str) -> RowError | None:
    """Return the error for a field that a row must not have, or lacks; None: there is none."""
    if body.stream:
        message = "body.stream: a batch's requests cannot be streamed"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "body.stream")
    for field, why in _NOT_HERE.get(endpoint, {}).items():
        if getattr(body, field) not in _left_out:
            message = f"body.{field}: {why}"
            return RowError(RowErrorCode.INVALID_REQUEST, message, number, f"body.{field}")
    fields = ENDPOINTS[endpoint].prompt_fields
    if all(getattr(body, field) == _null for field in fields):
        message = f"body.{fields[0]}: Field required"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, f"body.{fields[0]}")
    return None


def _wrong_shape(line: bytes, number: int, error: msgspec.ValidationError) -> RowError:
    """Return the error for a line that is not a request object."""
    try:
        _decode_members(line)
    except msgspec.ValidationError:
        return RowError(RowErrorCode.INVALID_JSON_LINE, f"line {number} is not a JSON object", number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        return RowError(RowErrorCode.INVALID_JSON_LINE, f"line {number} is not JSON: {broken}", number)
    param = next((name for name in ("custom_id", "method", "url", "body") if f"`{name}`" in str(error)), None)
    if param is None:
        param = next((name for name in ("custom_id", "method", "url") if f"$.{name}" in str(error)), None)
    return RowError(RowErrorCode.INVALID_REQUEST, str(error), number, param)
