"""Calling a FastAPI app inside this process: its endpoint functions directly, or all of it over ASGI.

The direct call skips routing, middlewares and FastAPI's parsing, which cost more than the endpoint itself beside a
fast GPU; everything that is not a valid request goes through the whole app, so that refusals are the app's
own.
"""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, get_args, get_origin

Headers = list[tuple[bytes, bytes]]

_NOT_TAKEN = "EngineGenerateError"
"""vLLM's error of a request that it could not hand to its engine process. Its handler does not say whose error it is."""


async def call_app(
    app: Any,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Headers | None = None,
    *,
    content_type: str = "application/json",
) -> tuple[int, bytes]:
    """Send one request through the whole app.

    Cancel the awaiting task to abort: the app is told of a disconnect.

    Args:
        path: without query.
        body: of the type ``content_type``, or empty.
        headers: lower-case names.

    Returns:
        Status and complete body.

    Raises:
        Exception: whatever the app lets out.
    """
    status, parts, pending = 500, [], [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> Any:
        if pending:
            return pending.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    scope = make_scope(app, method, path, headers or [], len(body), content_type)
    task = asyncio.ensure_future(app(scope, receive, send))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        # Not task.cancel(): vLLM's handlers run in tasks of their own, which only a disconnect ends.
        gone.set()
        await asyncio.wait({task}, timeout=5)
        raise
    return status, b"".join(parts)


def make_scope(
    app: Any, method: str, path: str, headers: Headers, length: int, content_type: str = "application/json"
) -> dict[str, Any]:
    """Return an ASGI HTTP scope as a local server would make it."""
    fixed = [
        (b"content-type", content_type.encode()),
        (b"host", b"local"),
        (b"content-length", b"%d" % length),
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*headers, *fixed],
        "client": ("local", 0),
        "server": ("local", 80),
        "state": {},
        "app": app,
    }


def functions_at(app: Any, path: str) -> list[Callable[..., Awaitable[Any]]]:
    """Return the endpoint functions for POST at a path; there may be none."""
    return [
        route.endpoint
        for route in app.routes
        if getattr(route, "path", None) == path and "POST" in (getattr(route, "methods", None) or ())
    ]


def upload_of(filename: str, data: bytes) -> Any:
    """Return a file of a form, as FastAPI gives it to an endpoint."""
    from starlette.datastructures import UploadFile

    return UploadFile(io.BytesIO(data), size=len(data), filename=filename)


class InvalidBodyError(Exception):
    """The endpoint's request model refuses the body."""


class Endpoint:
    """A POST endpoint of an app whose function takes ``(request: Model, raw_request: Request)``, or a union of models.
    The model may be that of a form.

    Raises:
        LookupError: the app has no such endpoint, or its function looks otherwise; use :func:`call_app`.
    """

    def __init__(self, app: Any, path: str) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError
        from starlette.requests import Request

        found = functions_at(app, path)
        if not found:
            raise LookupError(f"no endpoint {path}")
        # Below the decorators that watch for a disconnect: here the caller's task is cancelled instead.
        self._function: Callable[..., Awaitable[Any]] = inspect.unwrap(found[0])
        parameters = inspect.signature(self._function, eval_str=True).parameters
        if set(parameters) != {"request", "raw_request"}:
            raise LookupError(f"endpoint {path} does not take (request, raw_request)")
        self._app, self._path = app, path
        model: Any = parameters["request"].annotation
        if get_origin(model) is Annotated and isinstance(get_args(model)[0], type):  # of a form
            model = get_args(model)[0]
        try:
            self._validate = TypeAdapter(model).validate_python
        except PydanticSchemaGenerationError as error:
            raise LookupError(f"endpoint {path} takes no model") from error
        self._request = Request

    async def call(self, body: dict[str, Any], headers: Headers) -> tuple[Any, Any]:
        """Run the endpoint. Cancel the awaiting task to abort.

        Args:
            headers: lower-case names.

        Returns:
            The endpoint's Starlette response, errors included, and the Starlette request.

        Raises:
            InvalidBodyError: nothing was run.
            Exception: what no exception handler of the app takes.
        """
        try:
            parsed = self._validate(body)
        except Exception as error:  # vLLM's validators raise errors of their own too
            raise InvalidBodyError from error
        raw = self._request(make_scope(self._app, "POST", self._path, headers, 0))
        try:
            return await self._function(request=parsed, raw_request=raw), raw
        except Exception as error:
            handler = self._handler(error)
            if handler is None:
                raise
            return await handler(raw, error), raw

    def _handler(self, error: Exception) -> Callable[..., Awaitable[Any]] | None:
        handlers = self._app.exception_handlers
        if type(error).__name__ == _NOT_TAKEN:
            return None
        return next((handlers[cls] for cls in type(error).__mro__ if cls in handlers), None)
