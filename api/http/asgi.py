"""Replies, and routes that bypass FastAPI.

The hot routes are plain ASGI: FastAPI's dependency machinery would cost more than all of their own work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Scope, Send

from jobs.ids import is_batch_id, is_conversation_id, is_file_id, is_job_id

Header = tuple[bytes, bytes]

JSON_TYPE: Header = (b"content-type", b"application/json")


UNMATCHED = "unmatched"
"""Stands for the route of requests that match none, whatever their path: labels of metrics must stay few."""


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
    known: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if known is None:  # asked for a handful of them, each call would look through all
        known = scope[_HEADERS] = dict(reversed(scope["headers"]))
    return known.get(name)


def asks(scope: Scope, name: bytes) -> bool:
    """Return whether a request has a header that turns something on: ``1`` or ``true``."""
    value = header(scope, name)
    return value is not None and value.lower() in {b"1", b"true"}


def replace_headers(scope: Scope, headers: Sequence[Header]) -> None:
    """Give a request other headers."""
    scope["headers"] = list(headers)
    scope.pop(_HEADERS, None)


_HEADERS = "penstock.headers"


class RawRoute(APIRoute):
    """A route that a plain ASGI application answers."""


def add_raw_route(router: APIRouter, method: str, path: str, raw: ASGIApp, **documented: Any) -> None:
    """Add a route that ``raw`` answers. FastAPI only documents it, from ``documented``."""

    async def endpoint() -> None:
        """Give FastAPI a function without parameters to inspect."""

    route = RawRoute(
        path, endpoint, methods=[method], tags=router.tags, response_class=Response, **documented
    )
    route.app = raw
    router.routes.append(route)


Direct: TypeAlias = Mapping[tuple[str, str], RawRoute]
"""Routes by method and path."""


def direct_routes(routes: Sequence[BaseRoute]) -> Direct:
    """Return the raw routes of one fixed path each, which can be called without a search through all routes.

    Args:
        routes: all, in the order of the search; a raw route that the search would not find is left out.
    """
    found = {}
    for route in routes:
        if isinstance(route, RawRoute) and not route.param_convertors:
            for method in route.methods:
                scope = {"type": "http", "method": method, "path": route.path}
                if next(one for one in routes if one.matches(scope)[0] is Match.FULL) is route:
                    found[method, route.path] = route
    return found
