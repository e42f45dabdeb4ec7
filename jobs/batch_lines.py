"""A batch's output: a row's response, or the reason why it has none, becomes an output line."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from jobs.failures import FAILURES, FailureCode, code_for_status


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

_decode_value = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode
_SLACK = 32
_NESTED = b"[" * _SLACK, b"]" * _SLACK
_QUOTED = 500


def row_id(batch_id: str, offset: int) -> str:
    """Return the id of an output line, which is unique and does not change. ``offset``: of its input line, in bytes."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{offset}"


def response_line(row_id: str, custom_id: str, status: int, body: bytes, request_id: str) -> bytes:
    """Return the output line of a row that has a response, of any status.

    Args:
        row_id: unique id of this line.
        body: the response's JSON, one value, as the engine wrote it; see :func:`json_or_failure`.
        request_id: the engine's id of the request.
    """
    head = _encode({"id": row_id, "custom_id": custom_id})[:-1]
    response = b'"response":{"status_code":%d,"request_id":%b,"body":%b}' % (
        status,
        _encode(request_id),
        body.translate(None, b"\r\n"),  # in JSON, line ends occur between values only
    )
    return b'%b,%b,"error":null}\n' % (head, response)


def json_or_failure(status: int, body: bytes) -> tuple[int, bytes]:
    """Return an engine's answer as it is if its body is one JSON value; otherwise as an error that quotes it.

    A proxy may answer in HTML, and a crashed server in plain text. Such an answer keeps an error status; any other status
    becomes 502. JSON that is nested too deeply for a reader of the whole line does not count as JSON.
    """
    try:
        body.decode()
        _decode_value(body)
        _decode_value(_NESTED[0] + body + _NESTED[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        quoted = body[:_QUOTED].decode(errors="replace")
        message = f"the engine answered with status {status} and a body that is not JSON: {quoted}"
        failed = status if status >= 400 else 502
        return failed, failure_body(code_for_status(failed), message)[1]
    return status, body


def never_ran_line(row_id: str, custom_id: str, why: NeverRan) -> bytes:
    """Return the output line of a row that has no response."""
    error = {"code": why.value, "message": NEVER_RAN_MESSAGES[why]}
    return _encode({"id": row_id, "custom_id": custom_id, "response": None, "error": error}) + b"\n"


def failure_body(code: FailureCode, message: str) -> tuple[int, bytes]:
    """Return the response of a row that failed in Penstock, not in the engine: HTTP status and JSON."""
    info = FAILURES[code]
    error = {"message": message, "type": info.error_type, "param": None, "code": code.value}
    return info.http_status, _encode({"error": error})
