"""Replies, the client's hang-up, and routes that bypass FastAPI.

The hot routes are plain ASGI: FastAPI's dependency machinery would cost more than all of their own work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.ids import is_batch_id, is_conversation_id, is_file_id, is_job_id

Header = tuple[bytes, bytes]

JSON_TYPE: Header = (b"content-type", b"application/json")


UNMATCHED = "unmatched"
"""Stands for the route of requests that match none, whatever their path: labels of metrics must stay few."""


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


def template_of(scope: Scope) -> str:
    """Return the path of a request's route, such as ``/v1/jobs/{job_id}``."""
    return getattr(scope.get("route"), "path", UNMATCHED)


def shown_path(scope: Scope) -> str:
    """Return the same with the ids of jobs, files and batches filled in, for logs and traces.

    The path as it was sent may hold anything: a prompt, or a key that was pasted into the wrong place.
    """
    path = template_of(scope)
    for name, value in scope.get("path_params", {}).items():
        job_id = value.removeprefix("resp_")
        if is_job_id(job_id) or is_file_id(value) or is_batch_id(value) or is_conversation_id(value):
            path = path.replace(f"{{{name}}}", value)
    return path


async def reply(
    send: Send, status: int, body: bytes, headers: Iterable[Header] = (), *, content_type: Header = JSON_TYPE
) -> None:
    """Send a whole response."""
    length = (b"content-length", b"%d" % len(body))
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [content_type, length, *headers],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Make a whole response of JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a request header's first value; ``name`` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


class until_hangup:  # noqa: N801 - reads as a verb: `async with until_hangup(receive):`
    """Runs the block until the client hangs up, then raises ClientGoneError out of it.

    Works like ``asyncio.timeout``: it cancels the block's task and turns the cancellation into the error.
    Enter it after the request's body was read.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("until_hangup must run inside a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._listener = asyncio.get_running_loop().create_task(self._listen())
        return self

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.cancel()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGoneError from None


def add_raw_route(router: APIRouter, method: str, path: str, raw: ASGIApp, **documented: Any) -> None:
    """Add a route that ``raw`` answers. FastAPI only documents it, from ``documented``."""

    async def endpoint() -> None:
        """Give FastAPI a function without parameters to inspect."""

    route = APIRoute(
        path, endpoint, methods=[method], tags=router.tags, response_class=Response, **documented
    )
    route.app = raw
    router.routes.append(route)
