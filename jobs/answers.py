"""An engine's answer, as clients get it: JSON in UTF-8, whatever the engine or a proxy before it has sent."""

from __future__ import annotations

import msgspec

from jobs.failures import FAILURES, FailureCode, code_for_status

_decode_value = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode
_SLACK = 32
_NESTED = b"[" * _SLACK, b"]" * _SLACK
_QUOTED = 500


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


def failure_body(code: FailureCode, message: str) -> tuple[int, bytes]:
    """Return the response of a request that failed in Penstock, not in the engine: HTTP status and JSON."""
    info = FAILURES[code]
    error = {"message": message, "type": info.error_type, "param": None, "code": code.value}
    return info.http_status, _encode({"error": error})
