"""Every error an HTTP client can meet, on one page, and one table from foreign errors to ours.

The body is always OpenAI's: ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.asgi import ClientGoneError
from broker.db.errors import (
    BatchUnfinishedError,
    BusyError,
    FileGoneError,
    FileInUseError,
    IdempotencyConflictError,
    InfeasibleError,
    NewerRecordError,
    NoCoordinatorError,
    NoInputFileError,
    QueueFullError,
    StoreUnavailableError,
    UnfinishedError,
)
from jobs.failures import FAILURES
from storage import MissingObjectError, StorageError, StorageFullError

log = structlog.get_logger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"

LOG_GAP_S = 1.0
"""Failed requests of one kind are logged at most this often: while Redis is away there may be thousands."""

ERROR_CODES = (
    "batch_finished",
    "batch_not_finished",
    "batch_not_found",
    "body_too_large",
    "cursor_expired",
    "expired",
    "file_gone",
    "file_in_use",
    "file_not_found",
    "file_too_large",
    "gpu_busy",
    "idempotency_conflict",
    "infeasible_deadline",
    "invalid_api_key",
    "invalid_encoding",
    "invalid_json",
    "invalid_value",
    "job_cancelled",
    "job_not_finished",
    "job_not_found",
    "job_not_queued",
    "method_not_allowed",
    "missing_required_parameter",
    "no_coordinator",
    "no_such_device",
    "no_worker",
    "not_found",
    "nothing_to_retry",
    "pool_not_found",
    "queue_full",
    "queue_timeout",
    "range_not_satisfiable",
    "redis_unavailable",
    "storage_error",
    "storage_full",
    "storage_object_missing",
    "storage_unavailable",
    "unknown_parameter",
    "worker_not_found",
    *FAILURES,
)
"""Every code of an error body; the metric ``api_errors_total`` has a series for each from the start."""

RETRY_STORE_S = 1
RETRY_WORKER_S = 5
RETRY_STORAGE_S = 5


class ApiError(Exception):
    """An answer that is not a success.

    Args:
        status: the HTTP status.
        message: one or two sentences for the person who reads the client's log.
        code: machine-readable, see the table in ``docs/reference/http-api.md``.
        type_: OpenAI's coarse class of the error.
        param: the request field it is about.
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

    def body(self) -> bytes:
        """Return the error body."""
        return error_body(self.message, self.type, self.code, self.param)

    def response(self) -> Response:
        """Return the whole response."""
        return Response(self.body(), self.status, self.headers, "application/json")


def error_body(message: str, type_: str, code: str, param: str | None = None) -> bytes:
    """Return an OpenAI error body as JSON."""
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code}})


def invalid(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """Make a 400."""
    return ApiError(400, message, code, param=param)


def job_not_found(job_id: str) -> ApiError:
    """Make a 404 for a job."""
    return ApiError(
        404, f"there is no job {job_id!r}; finished jobs are kept for a while only", "job_not_found"
    )


def validation_error(errors: list[Any], skip: int = 0) -> ApiError:
    """Make a 400 out of pydantic's errors; the first is told.

    Args:
        errors: as of ``ValidationError.errors()``.
        skip: leading items of ``loc`` that are not the client's words.
    """
    first = errors[0]
    # Numbers are places in lists; the names between them are the fields (or, in a union, the tried types).
    path = [str(item) for item in first["loc"][skip:]]
    param = path[0] if path else None
    where = ".".join(path)
    return invalid(f"{where}: {first['msg']}" if where else str(first["msg"]), param)


def _http(error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, "there is no such page; GET /docs shows what there is", "not_found")
    if error.status_code == 405:
        return ApiError(405, "this address does not take this method", "method_not_allowed")
    type_ = SERVER if error.status_code >= 500 else INVALID
    code = "internal_error" if error.status_code >= 500 else "invalid_request"
    return ApiError(
        error.status_code, str(error.detail), code, type_=type_, headers=dict(error.headers or {})
    )


def unavailable(error: StoreUnavailableError) -> ApiError:  # noqa: ARG001 - the cause is logged, not shown
    """Make the 503 for a Redis that cannot be reached."""
    message = "the job store (Redis) cannot be reached; try again shortly"
    return ApiError(503, message, "redis_unavailable", type_=SERVER, retry_after_s=RETRY_STORE_S)


def _storage(error: StorageError) -> ApiError:
    if isinstance(error, StorageFullError):
        return ApiError(507, "the file storage is full", error.reason, type_=SERVER)
    if isinstance(error, MissingObjectError):
        return ApiError(410, "what this needs is no longer in the file storage", error.reason)
    message = "the file storage cannot be reached; try again shortly"
    return ApiError(503, message, error.reason, type_=SERVER, retry_after_s=RETRY_STORAGE_S)


def _newer(error: NewerRecordError) -> ApiError:
    return ApiError(500, str(error), "internal_error", type_=SERVER)


def _no_coordinator(error: NoCoordinatorError) -> ApiError:
    return ApiError(503, str(error), "no_coordinator", type_=SERVER, retry_after_s=RETRY_WORKER_S)


def retry_after(wait_ms: float | None) -> int:
    """Return whole seconds for ``Retry-After``: 1 to 120, since the OpenAI SDK does not wait for longer."""
    return min(120, max(1, math.ceil((wait_ms or 0) / 1000)))


def _full(error: QueueFullError) -> ApiError:
    whose = "" if error.tenant is None else f" for {error.tenant}"
    message = f"Queue full: {error.depth} jobs are waiting{whose}"
    retry_s = retry_after(error.retry_ms)
    return ApiError(429, message, "queue_full", type_="rate_limit_error", retry_after_s=retry_s)


def _busy(error: BusyError) -> ApiError:
    message = f"GPU busy: {error.active} jobs are running or about to"
    retry_s = retry_after(error.retry_ms)
    return ApiError(429, message, "gpu_busy", type_="rate_limit_error", retry_after_s=retry_s)


def queue_timeout(job_id: str, wait_ms: float | None) -> ApiError:
    """Make the 503 for a synchronous caller whose job was not, or would not be, started in time.

    Args:
        job_id: the job.
        wait_ms: milliseconds that a new one would wait.
    """
    message = f"Queue timeout: {job_id} could not be started in time"
    return ApiError(503, message, "queue_timeout", type_=SERVER, retry_after_s=retry_after(wait_ms))


def _infeasible(error: InfeasibleError) -> ApiError:
    estimate_s = error.estimate_ms / 1000
    message = f"{error.limit} cannot be met as the queue stands: it would take about {estimate_s:.1f} s"
    return ApiError(400, message, "infeasible_deadline", param=error.limit)


def foreign_errors() -> dict[type[Exception], Callable[[Any], ApiError]]:
    """Return the table: which error of others is which of ours."""
    return {
        ApiError: lambda error: error,
        HTTPException: _http,
        RequestValidationError: lambda error: validation_error(error.errors(), skip=1),
        StoreUnavailableError: unavailable,
        NewerRecordError: _newer,
        QueueFullError: _full,
        BusyError: _busy,
        InfeasibleError: _infeasible,
        IdempotencyConflictError: lambda error: ApiError(409, str(error), "idempotency_conflict"),
        UnfinishedError: lambda error: ApiError(409, str(error), "job_not_finished"),
        BatchUnfinishedError: lambda error: ApiError(409, str(error), "batch_not_finished"),
        FileGoneError: lambda error: ApiError(410, str(error), "file_gone", param="batch_id"),
        FileInUseError: lambda error: ApiError(409, str(error), "file_in_use"),
        NoInputFileError: lambda error: invalid(str(error), "input_file_id", "invalid_value"),
        NoCoordinatorError: _no_coordinator,
        StorageError: _storage,
    }


def install(app: FastAPI, count: Counter) -> None:
    """Register the table with the application; ``count`` counts answered errors by code."""
    for kind, convert in foreign_errors().items():
        app.add_exception_handler(kind, _handler(convert, count))


def _handler(convert: Callable[[Any], ApiError], count: Counter) -> Callable[[Request, Exception], Response]:
    logged_at = 0.0

    def handle(request: Request, error: Exception) -> Response:
        nonlocal logged_at
        ours = convert(error)
        count.labels(ours.code).inc()
        if ours.status == 405:
            ours.headers["allow"] = ", ".join(_methods(request))
        facts = {"path": request.url.path, "status": ours.status, "code": ours.code}
        loud = ours.status >= 500 or ours.status == 429
        if not loud:
            log.debug("request_refused", **facts)
        elif time.monotonic() - logged_at > LOG_GAP_S:  # the metrics count every one
            logged_at = time.monotonic()
            if ours.status == 429:
                log.info("request_refused", **facts)
            else:
                log.warning("request_failed", error=str(error), **facts)
        return ours.response()

    return handle


def _methods(request: Request) -> list[str]:
    """Return the methods that some route takes at this address."""
    found: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


class Guard:
    """The last resort (pure ASGI): an unexpected exception is logged with its trace and answered 500."""

    def __init__(self, app: ASGIApp, count: Counter) -> None:
        self._app = app
        self._count = count.labels("internal_error")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientGoneError:
            return  # nobody is there to be answered
        except Exception:
            log.exception("unexpected_error", path=scope["path"])
            self._count.inc()
            if started:
                raise  # the server must cut the connection: half an answer is sent
            message = "Penstock itself failed; its log has the trace"
            answer = ApiError(500, message, "internal_error", type_=SERVER)
            await answer.response()(scope, receive, send)
