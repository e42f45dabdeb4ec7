"""``GET /v1/files/{id}/content``: a file's bytes, or a range of them."""

from __future__ import annotations

import re
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from api.access.identity import owner_of
from api.files.view import found_file
from api.http.asgi import header
from api.http.errors import ApiError, file_not_found
from api.http.hangup import until_hangup
from api.services import Services
from storage import MissingObjectError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


class FileContent:
    """The route, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the bytes.

        Raises:
            ClientGoneError: the client left.
            ApiError: 404, or 416 for a range that begins after the end.
            StorageError: storage failed.
        """
        file_id = scope["path_params"]["file_id"]
        file = await found_file(self._services, file_id, owner_of(scope))
        start, end, partial = _range(header(scope, b"range"), file.size)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % (end - start)),
            (b"accept-ranges", b"bytes"),
            (b"etag", b'"%b"' % file.id.encode()),
        ]
        if partial:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, file.size)))
        with until_hangup(scope):
            async with aclosing(self._services.storage.read(file.key, start, end)) as pieces:
                try:
                    first = await anext(pieces, b"")  # an immediate failure is still answered with its status
                except MissingObjectError:
                    raise file_not_found(file_id) from None
                status = 206 if partial else 200
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _range(asked: bytes | None, size: int) -> tuple[int, int, bool]:
    """Read a ``Range`` header (RFC 9110 section 14): (start, end, whether it is a part). Several ranges: the whole file.

    Raises:
        ApiError: 416, it begins after the end.
    """
    found = _RANGE.match(asked.decode("latin-1").replace(" ", "")) if asked else None
    if found is None or not (found[1] or found[2]):
        return 0, size, False
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return 0, size, False
    if start >= size:
        message = f"the range begins at byte {start}, but the file has {size} bytes"
        raise ApiError(416, message, "range_not_satisfiable", headers={"content-range": f"bytes */{size}"})
    return start, end, True
