"""Every error an HTTP client can meet, on one page, and one table from foreign errors to ours.

The body is always OpenAI's: ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.asgi import ClientGoneError
from api.settings import ApiSettings
from broker.errors import (
    IdempotencyConflictError,
    NewerRecordError,
    QueueFullError,
    StoreUnavailableError,
    UnfinishedError,
)

log = structlog.get_logger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"

LOG_GAP_S = 1.0
"""Failed requests of one kind are logged at most this often: while Redis is away there may be thousands."""

RETRY_STORE_S = 1
RETRY_WORKER_S = 5


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


def _newer(error: NewerRecordError) -> ApiError:
    return ApiError(500, str(error), "internal_error", type_=SERVER)


def foreign_errors(settings: ApiSettings) -> dict[type[Exception], Callable[[Any], ApiError]]:
    """Return the table: which error of others is which of ours."""

    def full(error: QueueFullError) -> ApiError:
        retry_s = settings.queue_full_retry_s
        message = f"Queue full: {error.depth} jobs are waiting"
        return ApiError(429, message, "queue_full", type_="rate_limit_error", retry_after_s=retry_s)

    return {
        ApiError: lambda error: error,
        HTTPException: _http,
        RequestValidationError: lambda error: validation_error(error.errors(), skip=1),
        StoreUnavailableError: unavailable,
        NewerRecordError: _newer,
        QueueFullError: full,
        IdempotencyConflictError: lambda error: ApiError(409, str(error), "idempotency_conflict"),
        UnfinishedError: lambda error: ApiError(409, str(error), "job_not_finished"),
    }


def install(app: FastAPI, settings: ApiSettings) -> None:
    """Register the table with the application."""
    for kind, convert in foreign_errors(settings).items():
        app.add_exception_handler(kind, _handler(convert))


def _handler(convert: Callable[[Any], ApiError]) -> Callable[[Request, Exception], Response]:
    logged_at = 0.0

    def handle(request: Request, error: Exception) -> Response:
        nonlocal logged_at
        ours = convert(error)
        if ours.status == 405:
            ours.headers["allow"] = ", ".join(_methods(request))
        if ours.status >= 500 and time.monotonic() - logged_at > LOG_GAP_S:  # the metrics count every one
            logged_at = time.monotonic()
            log.warning("request_failed", path=request.url.path, code=ours.code, error=str(error))
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

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
            if started:
                raise  # the server must cut the connection: half an answer is sent
            message = "Penstock itself failed; its log has the trace"
            answer = ApiError(500, message, "internal_error", type_=SERVER)
            await answer.response()(scope, receive, send)
