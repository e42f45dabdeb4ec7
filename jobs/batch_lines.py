"""A batch's output: a row's response, or the reason why it has none, becomes an output line."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class NeverRan(StrEnum):
    """Why a row has no response at all."""

    EXPIRED = "batch_expired"
    CANCELLED = "batch_cancelled"
    WORKER_LOST = "worker_lost"


NEVER_RAN_MESSAGES = {
    NeverRan.EXPIRED: "This request could not be executed before the completion window expired.",
    NeverRan.CANCELLED: "This request was not executed: the batch was cancelled.",
    NeverRan.WORKER_LOST: "Every attempt of this request's chunk was lost with its worker or engine.",
}

_encode = msgspec.json.Encoder().encode


def row_id(batch_id: str, offset: int) -> str:
    """Return the id of an output line, which is unique and does not change. ``offset``: of its input line, in bytes."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{offset}"


def response_line(row_id: str, custom_id: str, status: int, body: bytes, request_id: str) -> bytes:
    """Return the output line of a row that has a response, of any status.

    Args:
        row_id: unique id of this line.
        body: the response's JSON, one value, as the engine wrote it; see :func:`jobs.answers.json_or_failure`.
        request_id: the engine's id of the request.
    """
    head = _encode({"id": row_id, "custom_id": custom_id})[:-1]
    response = b'"response":{"status_code":%d,"request_id":%b,"body":%b}' % (
        status,
        _encode(request_id),
        body.translate(None, b"\r\n"),  # in JSON, line ends occur between values only
    )
    return b'%b,%b,"error":null}\n' % (head, response)


def never_ran_line(row_id: str, custom_id: str, why: NeverRan) -> bytes:
    """Return the output line of a row that has no response."""
    error = {"code": why.value, "message": NEVER_RAN_MESSAGES[why]}
    return _encode({"id": row_id, "custom_id": custom_id, "response": None, "error": error}) + b"\n"
