"""The one exception that is answered to a client, and every error code it can have.

The body is always OpenAI's: ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
from fastapi import Response

from jobs.failures import FAILURES
from jobs.names import in_words

INVALID = "invalid_request_error"
SERVER = "server_error"
RATE_LIMIT = "rate_limit_error"

RETRY_STORE_S = 1
RETRY_WORKER_S = 5
RETRY_STORAGE_S = 5
MAX_RETRY_S = 120
"""Longest ``Retry-After``: the OpenAI SDK ignores a longer one."""

_OWN_CODES = {
    400: (
        *(
            "infeasible_deadline",
            "invalid_encoding",
            "invalid_json",
            "invalid_value",
            "missing_required_parameter",
        ),
        *("conversation_full", "conversation_locked", "mutually_exclusive_parameters", "no_such_device"),
        *("poisoned_kind", "previous_response_not_completed", "previous_response_not_found"),
        *("empty_image_file", "image_file_too_large", "image_parse_error", "image_too_large"),
        *("invalid_audio", "invalid_base64_image", "invalid_image_format", "invalid_image_url"),
        *("too_many_images", "unsupported_image_media_type"),
        "unknown_parameter",
    ),
    401: ("invalid_api_key",),
    403: (
        *("host_not_allowed", "insufficient_scope", "lane_not_allowed", "origin_not_allowed"),
        "tenant_suspended",
    ),
    404: (
        "alias_not_found",
        "adapter_not_found",
        "batch_not_found",
        "event_not_found",
        "chat_completion_not_found",
        "conversation_not_found",
        "item_not_found",
        "job_not_found",
        "key_not_found",
        "not_found",
        "pool_not_found",
        "response_not_found",
        "webhook_not_found",
        "worker_not_found",
    ),
    405: ("method_not_allowed",),
    408: ("body_timeout", "head_timeout"),
    409: (
        *("batch_finished", "batch_not_finished", "conversation_locked", "file_in_use"),
        *("idempotency_conflict", "job_cancelled"),
        *("job_not_finished", "job_not_queued", "jobs_waiting", "key_inactive", "name_taken", "no_pepper"),
        *("nothing_to_retry", "rollout_refused", "too_many_webhooks"),
    ),
    410: ("cursor_expired", "file_gone", "result_gone", "storage_object_missing"),
    413: ("body_too_large", "file_too_large"),
    414: ("url_too_long",),
    416: ("range_not_satisfiable",),
    429: (
        *("gpu_busy", "insufficient_quota", "queue_full", "rate_limit_exceeded", "resource_unavailable"),
        "too_many_attempts",
    ),
    431: ("headers_too_large",),
    503: (
        "body_memory_full",
        "issuer_unavailable",
        "no_coordinator",
        "no_worker",
        "queue_timeout",
        "redis_unavailable",
        "server_stopping",
        "storage_error",
        "too_many_connections",
    ),
    504: ("expired",),
    507: ("storage_full",),
}

READER_TOO_SLOW = "reader_too_slow"
"""Counted for a client that stopped reading: it gets no answer."""

ERROR_CODES = tuple(dict.fromkeys((READER_TOO_SLOW, *itertools.chain(*_OWN_CODES.values()), *FAILURES)))
"""Every code of an error body. The metric ``api_errors_total`` has a series for each from the start."""

_FINAL_CODES = {
    "body_timeout",
    "insufficient_quota",
    *_OWN_CODES[409],
    *_OWN_CODES[504],
    *_OWN_CODES[507],
    *(code.value for code, info in FAILURES.items() if not info.retryable),
}
"""The same request would meet the same error again."""

_RETRIED = frozenset({408, 409, 429})
"""Statuses that the OpenAI SDK retries by itself, beside 500 and above."""


def codes_of(status: int) -> list[str]:
    """Return the codes that a status is answered with."""
    failures = [code.value for code, info in FAILURES.items() if info.http_status == status]
    return sorted({*_OWN_CODES.get(status, ()), *failures})


class ApiError(Exception):
    """An answer that is not a success.

    Args:
        status: the HTTP status.
        message: one or two sentences: what happened, why, and what to do.
        code: machine-readable, see the table in ``docs/reference/http-api.md``.
        type_: OpenAI's coarse class of the error.
        param: the request field that it is about.
        retry_after_s: whole seconds, sent as ``Retry-After``.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        type_: str = INVALID,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.type = type_
        self.param = param
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["retry-after"] = str(retry_after_s)
        elif code in _FINAL_CODES and (status >= 500 or status in _RETRIED):
            self.headers["x-should-retry"] = "false"  # the OpenAI SDK's own convention

    def body(self) -> bytes:
        """Return OpenAI's error body."""
        detail = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": detail})

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers as ASGI wants them."""
        return [(name.encode(), value.encode()) for name, value in self.headers.items()]

    def response(self) -> Response:
        """Return the whole response."""
        return Response(self.body(), self.status, self.headers, "application/json")


def file_not_found(file_id: str, param: str = "id") -> ApiError:
    """Make the 404 for a file."""
    message = f"the file {file_id[:64]!r} does not exist; it may have expired or been deleted"
    return ApiError(404, message, "file_not_found", param=param)


def invalid(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """Make a 400."""
    return ApiError(400, message, code, param=param)


def validation_error(errors: list[Any], skip: int = 0) -> ApiError:
    """Make a 400 from pydantic's errors. It reports the first one.

    Of a union, which has an error of each type that was tried, it reports a list that is too long, or else the error that
    is deepest in the value: that type was meant. Each of our unions begins with ``str``.

    Args:
        errors: as of ``ValidationError.errors()``.
        skip: leading items of ``loc`` that are not the client's names.
    """
    first = errors[0]
    if first["loc"][-1:] == ("str",):
        union = first["loc"][:-1]
        tried = (error for error in errors if error["loc"][: len(union)] == union)
        first = max(tried, key=lambda error: (error["type"] == "too_long", len(error["loc"])))
    # Numbers are places in lists. The names between them are the fields or, in a union, the types that were tried.
    path = [str(item) for item in first["loc"][skip:]]
    where = ".".join(path)
    message = in_words(first)
    return invalid(f"{where}: {message}" if where else message, path[0] if path else None)


def no_worker(why: str) -> ApiError:
    """Make the 503 for a request that no live worker can take. ``why``: the message."""
    return ApiError(503, why, "no_worker", type_=SERVER, retry_after_s=RETRY_WORKER_S)


def retry_after(wait_ms: float | None) -> int:
    """Return whole seconds for ``Retry-After``, 1 to :data:`MAX_RETRY_S`."""
    return min(MAX_RETRY_S, max(1, math.ceil((wait_ms or 0) / 1000)))


def infeasible_message(limit: str, estimate_ms: float) -> str:
    """Return the message for a time limit that the queue makes impossible. ``limit``: the field's name."""
    estimate = f"{estimate_ms / 1000:.1f} s"
    return f"{limit} cannot be met: with the jobs now queued it would take about {estimate}; raise {limit} or retry later"
