"""The console's scripts and styles, which this server sends itself. Their names carry a digest, so browsers keep them."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from api.http.asgi import header
from api.http.errors import ApiError

FOLDER: Final = Path(__file__).with_name("static")
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "cache-control": "public, max-age=31536000, immutable",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


def register(router: APIRouter) -> None:
    """Add the route."""

    @router.get("/console/static/{version}/{name}", include_in_schema=False)
    async def asset(version: str, name: str, request: Request) -> Response:  # noqa: ARG001 - it makes the address new
        """One of the files."""
        path = FOLDER / name
        if path.suffix not in _TYPES or path.name not in names():
            raise ApiError(404, "this file does not exist", "not_found")
        if b"gzip" in (header(request.scope, b"accept-encoding") or b""):
            return Response(packed(name), 200, {**_HEADERS, "content-encoding": "gzip"}, _TYPES[path.suffix])
        return Response(path.read_bytes(), 200, _HEADERS, _TYPES[path.suffix])


@cache
def names() -> frozenset[str]:
    """Return the names of the files."""
    return frozenset(path.name for path in FOLDER.iterdir() if path.suffix in _TYPES)


@cache
def packed(name: str) -> bytes:
    """Return a file as gzip."""
    return gzip.compress((FOLDER / name).read_bytes(), 9, mtime=0)


@cache
def version() -> str:
    """Return a digest of all files, a part of their addresses."""
    digest = hashlib.sha256()
    for name in sorted(names()):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()[:12]
