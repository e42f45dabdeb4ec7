"""The first failed rows of a batch, from the beginning of its error file. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

MOST_ROWS: Final = 20
MOST_BYTES: Final = 64 * 1024
"""So much of the error file is read for them."""

_MOST_TEXT = 400


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row without an answer.

    Attributes:
        status: the HTTP status that it got; None: it never ran.
        code: the API's code, if it has one.
        message: at most 400 characters of it.
    """

    custom_id: str
    status: int | None
    code: str
    message: str


def failed_rows(data: bytes) -> list[FailedRow]:
    """Read error lines; at most :data:`MOST_ROWS`. A last line that is cut is left out.

    Args:
        data: the beginning of an error file.
    """
    rows = []
    for line in data.split(b"\n")[:MOST_ROWS]:
        try:
            rows.append(_read(msgspec.json.decode(line)))
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
            continue
    return rows


def _read(line: dict[str, Any]) -> FailedRow:
    response = line.get("response") or {}
    body = response.get("body") or {}
    error = line.get("error") or body.get("error") or body
    message = error.get("message") or "its answer has no message"
    return FailedRow(
        str(line["custom_id"]),
        response.get("status_code"),
        str(error.get("code") or ""),
        str(message)[:_MOST_TEXT],
    )
