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


class Response:
    """A row's response, of any status. It may be the response of identical rows, too.

    Args:
        status: its HTTP status.
        body: its JSON, one value, as the engine wrote it; see :func:`jobs.answers.json_or_failure`.
        engine_id: the id under which the engine ran the row; the response's own ``id`` contains it.
    """

    def __init__(self, status: int, body: bytes, engine_id: str) -> None:
        body = body.translate(None, b"\r\n")  # in JSON, line ends occur between values only
        self._status = status
        self._before, self._id, after = body.partition(engine_id.encode())
        if not self._id:
            self._before, after = b"", self._before
        self._after = b'%b},"error":null}\n' % after

    def line(self, row_id: str, custom_id: str, engine_id: str) -> tuple[bytes, bytes]:
        """Return a row's output line in two pieces, of which all its rows share the second, larger one.

        Args:
            row_id: the unique id of this line, which is its request's id too.
            custom_id: the row's.
            engine_id: as if the engine had run this row; the body has it in the place of the one that it was run under.
        """
        head = _encode({"id": row_id, "custom_id": custom_id})[:-1]
        response = b'"response":{"status_code":%d,"request_id":%b,"body":%b%b' % (
            self._status,
            _encode(row_id),
            self._before,
            engine_id.encode() if self._id else b"",
        )
        return b"%b,%b" % (head, response), self._after


def never_ran_line(row_id: str, custom_id: str, why: NeverRan) -> bytes:
    """Return the output line of a row that has no response."""
    error = {"code": why.value, "message": NEVER_RAN_MESSAGES[why]}
    return _encode({"id": row_id, "custom_id": custom_id, "response": None, "error": error}) + b"\n"
