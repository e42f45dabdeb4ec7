"""One table from every exception that a route can raise to its answer, and the handlers made of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.http.asgi import shown_path
from api.http.errors import (
    INVALID,
    RATE_LIMIT,
    RETRY_STORAGE_S,
    RETRY_STORE_S,
    RETRY_WORKER_S,
    SERVER,
    ApiError,
    infeasible_message,
    invalid,
    retry_after,
    validation_error,
)
from api.http.rates import over_quota
from broker.db.errors import (
    BatchUnfinishedError,
    BodyGoneError,
    BusyError,
    ConversationBusyError,
    ConversationFullError,
    FileGoneError,
    FileInUseError,
    IdempotencyConflictError,
    InfeasibleError,
    KeyInactiveError,
    NewerRecordError,
    NoConversationError,
    NoCoordinatorError,
    NoInputFileError,
    OverQuotaError,
    QueueFullError,
    StoreError,
    StoreFaultError,
    StoreUnavailableError,
    UnfinishedError,
)
from jobs.failures import FAILURES
from jobs.sealing import SealingError
from storage import MissingObjectError, StorageError, StorageFullError, UnreadableObjectError

log = structlog.get_logger(__name__)

LOG_GAP_S = 1.0
"""Least time between two log lines of one kind of failure: while Redis is away there may be thousands."""


def _http(error: HTTPException) -> ApiError:
    status = error.status_code
    if status == 404:
        return ApiError(404, "this path does not exist; GET /docs lists every path", "not_found")
    if status == 405:
        message = "this path does not take this method; the header Allow lists those that it takes"
        return ApiError(405, message, "method_not_allowed")
    code, type_ = ("internal_error", SERVER) if status >= 500 else ("invalid_request", INVALID)
    return ApiError(status, str(error.detail), code, type_=type_, headers=dict(error.headers or {}))


def unavailable(error: StoreUnavailableError) -> ApiError:  # noqa: ARG001 - the cause is logged, not shown
    """Make the 503 for a Redis that cannot be reached."""
    message = "the job store (Redis) cannot be reached; retry shortly"
    return ApiError(503, message, "redis_unavailable", type_=SERVER, retry_after_s=RETRY_STORE_S)


def internal(error: Exception) -> ApiError:  # noqa: ARG001 - the cause is logged, not shown
    """Make the 500 for a defect of Penstock."""
    message = "Penstock itself failed; the api's log says why (store_fault)"
    return ApiError(500, message, "internal_error", type_=SERVER)


def sealing(error: SealingError | UnreadableObjectError) -> ApiError:
    """Make the answer for encrypted data that cannot be read."""
    info = FAILURES[error.code]
    wait_s = RETRY_WORKER_S if info.retryable else None  # the operator may be adding the key now
    return ApiError(info.http_status, str(error), error.code, type_=info.error_type, retry_after_s=wait_s)


def _storage(error: StorageError) -> ApiError:
    if isinstance(error, StorageFullError):
        message = "the file storage is full; delete files or ask the operator for more space"
        return ApiError(507, message, error.reason, type_=SERVER)
    if isinstance(error, UnreadableObjectError):
        return sealing(error)
    if isinstance(error, MissingObjectError):
        message = "an object that this request needs is no longer in the file storage"
        return ApiError(410, message, error.reason)
    message = "the file storage cannot be reached; retry shortly"
    return ApiError(503, message, error.reason, type_=SERVER, retry_after_s=RETRY_STORAGE_S)


def broken_off(error: ApiError | StoreError | SealingError | StorageError) -> ApiError:
    """Make the error that ends a stream after some of it was sent."""
    match error:
        case ApiError():
            return error
        case SealingError():
            return sealing(error)
        case StorageError():
            return _storage(error)
        case StoreUnavailableError():
            return unavailable(error)
    return internal(error)


def _no_coordinator(error: NoCoordinatorError) -> ApiError:
    return ApiError(503, str(error), "no_coordinator", type_=SERVER, retry_after_s=RETRY_WORKER_S)


def _full(error: QueueFullError) -> ApiError:
    whose = "" if error.tenant is None else f" for {error.tenant}"
    waiting = "1 job is" if error.depth == 1 else f"{error.depth} jobs are"
    return _rate_limit(f"Queue full: {waiting} waiting{whose}", "queue_full", error.retry_ms)


def _busy(error: BusyError) -> ApiError:
    running = "1 job is" if error.active == 1 else f"{error.active} jobs are"
    return _rate_limit(f"GPU busy: {running} running or about to run", "gpu_busy", error.retry_ms)


def _rate_limit(message: str, code: str, retry_ms: int) -> ApiError:
    wait_s = retry_after(retry_ms)
    return ApiError(429, f"{message}; retry in {wait_s} s", code, type_=RATE_LIMIT, retry_after_s=wait_s)


def _infeasible(error: InfeasibleError) -> ApiError:
    return invalid(infeasible_message(error.limit, error.estimate_ms), error.limit, "infeasible_deadline")


def foreign_errors() -> dict[type[Exception], Callable[[Any], ApiError]]:
    """Return the table: each exception, and what makes its answer."""
    return {
        ApiError: lambda error: error,
        HTTPException: _http,
        RequestValidationError: lambda error: validation_error(error.errors(), skip=1),
        StoreUnavailableError: unavailable,
        StoreFaultError: internal,
        SealingError: sealing,
        NewerRecordError: lambda error: ApiError(500, str(error), "internal_error", type_=SERVER),
        QueueFullError: _full,
        BusyError: _busy,
        OverQuotaError: over_quota,
        InfeasibleError: _infeasible,
        NoConversationError: lambda error: ApiError(
            404, str(error), "conversation_not_found", param="conversation"
        ),
        ConversationBusyError: lambda error: invalid(str(error), "conversation", "conversation_locked"),
        ConversationFullError: lambda error: invalid(str(error), "items", "conversation_full"),
        IdempotencyConflictError: lambda error: ApiError(409, str(error), "idempotency_conflict"),
        BodyGoneError: lambda error: ApiError(410, str(error), "result_gone"),
        UnfinishedError: lambda error: ApiError(409, str(error), "job_not_finished"),
        BatchUnfinishedError: lambda error: ApiError(409, str(error), "batch_not_finished"),
        KeyInactiveError: lambda error: ApiError(409, str(error), "key_inactive"),
        FileGoneError: lambda error: ApiError(410, str(error), "file_gone", param="batch_id"),
        FileInUseError: lambda error: ApiError(409, str(error), "file_in_use"),
        NoInputFileError: lambda error: invalid(str(error), "input_file_id", "invalid_value"),
        NoCoordinatorError: _no_coordinator,
        StorageError: _storage,
    }


Handler: TypeAlias = Callable[[Request, Exception], Awaitable[Response]]


def handlers(count: Counter) -> dict[type[Exception], Handler]:
    """Return what answers each exception of the table. ``count``: answered errors by code."""
    return {kind: _handler(convert, count) for kind, convert in foreign_errors().items()}


def _handler(convert: Callable[[Any], ApiError], count: Counter) -> Handler:
    logged_at = 0.0

    # async though it awaits nothing: Starlette runs other handlers in a thread, which costs more than the whole refusal.
    async def handle(request: Request, error: Exception) -> Response:
        nonlocal logged_at
        ours = convert(error)
        count.labels(ours.code).inc()
        if ours.status == 405:
            ours.headers["allow"] = ", ".join(_methods(request))
        facts = {"path": shown_path(request.scope), "status": ours.status, "code": ours.code}
        if ours.status < 500 and ours.status != 429:
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
    """Return the methods that some route takes at this path."""
    found: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)
