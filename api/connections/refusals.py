"""The answers to what never becomes a request."""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from api.connections.limits import Limits
from api.http.asgi import JSON_TYPE, Header
from api.http.errors import RETRY_STORE_S, SERVER, ApiError
from api.http.request_ids import id_header, new_request_id


def head_too_large(url: bytes, limits: Limits) -> ApiError:
    """Make the 414 or 431 for a head, by its larger part. ``url``: the part of the URL that has arrived."""
    most = limits.max_head_bytes
    if len(url) > most // 2:
        message = f"the URL is too long: with the headers, {most} bytes fit (setting max_head_bytes)"
        return ApiError(414, message, "url_too_long")
    message = f"the headers are too large: with the URL, {most} bytes fit (setting max_head_bytes)"
    return ApiError(431, message, "headers_too_large")


def head_too_slow(limit_s: float) -> ApiError:
    """Make the 408 for a head that does not arrive."""
    message = (
        f"the headers did not arrive in time (setting head_timeout_s, {limit_s:g} s); send the request again"
    )
    return ApiError(408, message, "head_timeout")


def body_too_slow(limit_s: float, min_bytes_per_s: int) -> ApiError:
    """Make the 408 for a body that does not arrive."""
    message = (
        f"the body stopped for {limit_s:g} s (setting read_timeout_s), or came with less than {min_bytes_per_s} bytes/s"
        " (setting min_bytes_per_s); send a smaller one, or over a faster connection"
    )
    return ApiError(408, message, "body_timeout")


def too_many_connections() -> ApiError:
    """Make the 503 for one connection too many."""
    message = "the server has as many connections as it takes (setting max_connections); retry shortly"
    return ApiError(503, message, "too_many_connections", type_=SERVER, retry_after_s=RETRY_STORE_S)


def stopping() -> ApiError:
    """Make the 503 for a call that is open when the process ends."""
    message = "this server stopped before the call was finished; send it again"
    return ApiError(503, message, "server_stopping", type_=SERVER, retry_after_s=RETRY_STORE_S)


def whole_answer(error: ApiError, headers: Iterable[Header]) -> bytes:
    """Return an error as the bytes of an HTTP/1.1 response after which the connection is closed."""
    body = error.body()
    own = (
        JSON_TYPE,
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        id_header(new_request_id()),
    )
    lines = [b"%b: %b\r\n" % pair for pair in (*headers, *error.raw_headers(), *own)]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
