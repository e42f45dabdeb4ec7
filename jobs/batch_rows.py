"""A batch's input: each line is a row, or an error with its line number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from jobs.endpoints import ENDPOINTS, RESPONSES
from jobs.known_fields import no_such_field
from jobs.row_fields import NULL, UNREADABLE, Body, Line, UnknownFields


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
    UNKNOWN_PARAMETER = "unknown_parameter"


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


class _Named(msgspec.Struct):
    custom_id: str


_decode_line = msgspec.json.Decoder(Line[msgspec.Raw]).decode
_decode_body = msgspec.json.Decoder(Body).decode
_decode_members = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode  # a line may be 64 MB: make no objects of it
_decode_named = msgspec.json.Decoder(_Named).decode
_BOM = b"\xef\xbb\xbf"
_REQUIRED = ("custom_id", "url", "body")
_FORM = 'each line is one request: {"custom_id": "…", "method": "POST", "url": "/v1/…", "body": {…}}'
_ARRAY = f"begins a JSON array, but the file must be JSON Lines; {_FORM}. To convert: jq -c '.[]' FILE"
_EXPECTED = re.compile(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`")
_TYPES = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a JSON object",
}

_left_out = (NULL, msgspec.Raw(b"false"))

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


def check_line(line: bytes, number: int, rules: Rules, fields: UnknownFields) -> tuple[str, str] | RowError:
    """Check an input line; return (custom_id, model), or the error.

    The caller checks that each ``custom_id`` occurs once and that the model is served.

    Args:
        line: without its newline; not empty.
        number: its number, from 1.
        fields: those of the lines before; the line's are added.
    """
    read = fields.read(line)
    if read is not None:
        return _check_envelope(read, number, rules) or _check_body(read.custom_id, read.body, number, rules)
    try:
        row = _decode_line(line)
    except msgspec.ValidationError as error:
        return _wrong_shape(line, number, error)
    except UNREADABLE as error:
        return _not_json(line, number, error)
    wrong = _check_envelope(row, number, rules)
    if wrong is not None:
        return wrong
    try:
        body = _decode_body(row.body)
    except UNREADABLE as error:
        return _wrong_body(number, error)
    fields.learn(row.body, number)
    return _check_body(row.custom_id, body, number, rules)


def unknown_parameters(endpoint: str, found: Mapping[str, int]) -> list[RowError]:
    """Return an error for each unknown field. ``found``: by name, the first line that has it."""
    return [
        RowError(RowErrorCode.UNKNOWN_PARAMETER, no_such_field(endpoint, name), line, f"body.{name}")
        for name, line in found.items()
    ]


def _check_envelope(row: Line[Any], number: int, rules: Rules) -> RowError | None:
    """Return the error for a field beside the body; None: there is none."""
    if not 1 <= len(row.custom_id) <= MAX_CUSTOM_ID:
        found = f"it has {len(row.custom_id)} characters" if row.custom_id else "it is empty"
        message = f"custom_id: {found}; give the row an id of its own, of 1 to {MAX_CUSTOM_ID} characters"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "custom_id")
    if row.method != "POST":
        message = f"method must be POST, not {row.method[:20]!r}"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "method")
    if row.url != rules.endpoint:
        message = (
            f"url is {row.url[:100]!r}, but the batch's endpoint is {rules.endpoint!r}; make them the same"
        )
        return RowError(RowErrorCode.URL_MISMATCH, message, number, "url")
    return None


def _check_body(custom_id: str, body: Body, number: int, rules: Rules) -> tuple[str, str] | RowError:
    if not body.model:
        message = "body.model: name a model; GET /v1/models lists what there is"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "body.model")
    if rules.model is not None and body.model != rules.model:
        message = (
            f"body.model is {body.model[:100]!r}, but the first request's is {rules.model!r}; a batch has one model, so "
            "make a batch for each"
        )
        return RowError(RowErrorCode.MODEL_MISMATCH, message, number, "body.model")
    return _check_fields(body, number, rules.endpoint) or (custom_id, body.model)


def _check_fields(body: Body, number: int, endpoint: str) -> RowError | None:
    """Return the error for a field that a row must not have, or lacks; None: there is none."""
    if body.stream:
        message = "body.stream: a batch's requests cannot be streamed; leave it out"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, "body.stream")
    for field, why in _NOT_HERE.get(endpoint, {}).items():
        if getattr(body, field) not in _left_out:
            message = f"body.{field}: {why}"
            return RowError(RowErrorCode.INVALID_REQUEST, message, number, f"body.{field}")
    fields = ENDPOINTS[endpoint].prompt_fields
    if all(getattr(body, field) == NULL for field in fields):
        message = f"body.{fields[0]}: Field required: the request has no prompt"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, f"body.{fields[0]}")
    return None


def _wrong_body(number: int, error: Exception) -> RowError:
    """Return the error for a body that is not an object, or has a field of the wrong type."""
    param, why = "body", str(error)
    if isinstance(error, msgspec.ValidationError):
        why, _, at = why.partition(" - at `$.")
        param = f"body.{at.removesuffix('`')}" if at else "body"
    return RowError(RowErrorCode.INVALID_REQUEST, f"{param}: {_plain(why)}", number, param)


def _wrong_shape(line: bytes, number: int, error: msgspec.ValidationError) -> RowError:
    """Return the error for a line that is not a request object."""
    try:
        members = _decode_members(line)
    except msgspec.ValidationError:
        what = _ARRAY if _begins_array(line, number) else f"is not a JSON object; {_FORM}"
        return RowError(RowErrorCode.INVALID_JSON_LINE, f"the line {what}", number)
    except UNREADABLE as broken:
        return _not_json(line, number, broken)
    lacking = next((name for name in _REQUIRED if name not in members), None)
    if lacking is not None:
        message = f"{lacking}: Field required; {_FORM}"
        return RowError(RowErrorCode.INVALID_REQUEST, message, number, lacking)
    why, _, at = str(error).partition(" - at `$.")
    param = at.removesuffix("`") or None
    return RowError(RowErrorCode.INVALID_REQUEST, f"{param or 'line'}: {_plain(why)}", number, param)


def _not_json(line: bytes, number: int, error: Exception) -> RowError:
    """Return the error for a line that is no JSON, with the cause if it is a usual one."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        why = "is UTF-16; save the file as UTF-8"
    elif line.startswith(_BOM):
        why = "begins with a byte order mark; save the file as UTF-8 without one (the BOM)"
    elif _begins_array(line, number):
        why = _ARRAY
    elif line.strip() == b"{":
        why = "is a part of a JSON object; write each object on one line. To convert: jq -c . FILE"
    else:
        why = f"is not JSON: {error}"
    return RowError(RowErrorCode.INVALID_JSON_LINE, f"the line {why}", number)


def _begins_array(line: bytes, number: int) -> bool:
    """Whether the file seems to be one JSON array."""
    return number == 1 and line.lstrip()[:1] == b"["


def _plain(why: str) -> str:
    """Return msgspec's words for a wrong type in ours."""
    found = _EXPECTED.fullmatch(why)
    return (
        why
        if found is None
        else f"it must be {_TYPES.get(found[1], found[1])}, not {_TYPES.get(found[2], found[2])}"
    )
