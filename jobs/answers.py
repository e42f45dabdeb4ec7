"""An engine's answer, as clients get it: JSON, and errors in OpenAI's shape, whatever the engine or a proxy has sent."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from jobs.anthropic import STATUSES, error_type
from jobs.failures import FAILURES, FailureCode, code_for_status
from jobs.floats import read_float

_decode_value = msgspec.json.Decoder(msgspec.Raw).decode
_decode_any = msgspec.json.Decoder(float_hook=read_float).decode
_encode = msgspec.json.Encoder().encode
_SLACK = 32
_NESTED = b"[" * _SLACK, b"]" * _SLACK
_QUOTED = 500

_PATH_STATUSES = (404, 405)
_no_such_path = re.compile(r"(?:File )?Not Found|Method Not Allowed|Invalid URL \(.*").fullmatch
"""What web frameworks, llama.cpp and OpenAI say of a path that they do not have; a server that misses a model names it."""

_ERRORS = 10
"""Of a list of errors, how many are told."""

_SAYING = ("detail", "error", "message", "msg", "error_message", "errors")
"""Fields in which frameworks say what is wrong."""


def json_or_failure(status: int, body: bytes) -> tuple[int, bytes]:
    """Return an engine's answer as it is if clients can read it; otherwise as an OpenAI error that has its words.

    A proxy may answer in HTML, a crashed server in plain text, and a framework as ``{"detail": ...}``. Such an answer keeps
    an error status; any other status becomes 502. A path or method that the server does not have becomes ``unsupported``.
    JSON that is nested too deeply for a reader of the whole line does not count as JSON. vLLM's errors get OpenAI's ``type``
    and a ``code`` of ours in place of the name of an exception and the status.
    """
    try:
        body.decode()
        _decode_value(body)
        _decode_value(_NESTED[0] + body + _NESTED[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        quoted = body[:_QUOTED].decode(errors="replace")
        return _refusal(status, quoted, " and a body that is not JSON")
    if status < 400:
        return status, body
    value = _decode_any(body)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and isinstance(said := error.get("message"), str):
        lacks = status in _PATH_STATUSES and _no_such_path(said)
        return _refusal(status, said) if lacks else (status, _openais(status, body, value))
    return _refusal(status, _words(value) or body[:_QUOTED].decode())


def _openais(status: int, body: bytes, value: dict[str, Any]) -> bytes:
    """Return an error whose ``type`` and ``code`` are of OpenAI's kinds: words in lower case, and a text or null."""
    error = value["error"]
    if value.get("type") == "error":  # Anthropic's
        known = error.get("type") in STATUSES
        return body if known else _encode({**value, "error": {**error, "type": error_type(status)}})
    code = code_for_status(status, error["message"])
    mended = {}
    if isinstance(error.get("code", 0), int):
        mended["code"] = code.value
    kind = error.get("type")
    if not isinstance(kind, str) or kind != kind.lower():
        mended["type"] = FAILURES[code].error_type
    if not mended:
        return body
    return _encode({**value, "error": {"param": None, **error, **mended}})


def _refusal(status: int, words: str, how: str = "") -> tuple[int, bytes]:
    """Return an error of the engine. ``how``: in which form it came, if that is no error at all."""
    if status in _PATH_STATUSES:
        told = f"the engine does not serve this endpoint: it answered with status {status}{how}: {words}"
        return failure_body(FailureCode.UNSUPPORTED, told)
    told = f"the engine answered with status {status}{how}: {words}" if how else words
    failed = status if status >= 400 else 502
    return failed, failure_body(code_for_status(failed, words), told)[1]


def _words(value: Any, depth: int = 4) -> str:
    """Find what a JSON value of some framework says of an error; empty: it says nothing."""
    if isinstance(value, str):
        return value[:_QUOTED]
    if not depth:
        return ""
    if isinstance(value, list):  # FastAPI's wrong fields
        return "; ".join(filter(None, (_words(one, depth - 1) for one in value[:_ERRORS])))
    if not isinstance(value, dict):
        return ""
    said = next(filter(None, (_words(value.get(name), depth - 1) for name in _SAYING)), "")
    place = value.get("loc")
    return f"{'.'.join(map(str, place))}: {said}" if said and isinstance(place, list) else said


def failure_body(code: FailureCode, message: str, param: str | None = None) -> tuple[int, bytes]:
    """Return the response of a request that failed in Penstock, not in the engine: HTTP status and JSON.

    Args:
        param: the field of the request that is the cause.
    """
    info = FAILURES[code]
    error = {"message": message, "type": info.error_type, "param": param, "code": code.value}
    return info.http_status, _encode({"error": error})
