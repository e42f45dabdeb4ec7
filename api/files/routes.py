"""OpenAI's Files API: uploads of any size in constant memory, look-ups, deletion, content with ranges."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from starlette.types import Receive, Scope, Send

from api.access.authenticate import tenant_of
from api.files.upload import Upload, read_upload
from api.files.view import (
    PURPOSES,
    FileDeleted,
    FileList,
    FileObject,
    expires_after_s,
    file_not_found,
    file_view,
    list_view,
)
from api.http.asgi import RawRoute, header, reply
from api.http.errors import ApiError, invalid
from api.http.openapi import error_docs
from api.services import Services
from broker.db.errors import IdempotencyConflictError
from jobs.batch_keys import file_key
from jobs.batch_model import File
from jobs.ids import is_file_id
from storage import MissingObjectError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")

_ID_DOCS = {"name": "file_id", "in": "path", "required": True, "schema": {"type": "string"}}
_KEY_DOCS = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "The same key with the same content gives the same file.",
}
_FORM_DOCS = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": list(PURPOSES)},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                },
            }
        }
    },
}


class Files:
    """The calls that stream."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/files``."""
        services = self._services
        key = idempotency_key(scope)
        if key is not None:
            key = f"{tenant_of(scope)}:{key}"
        file_id = services.new_id("file-")
        upload, writer = await read_upload(
            scope, receive, services.storage, file_key(file_id), services.settings.file_max_bytes
        )
        try:
            purpose, expires_ms = self._read_fields(upload)
            await services.files.announce(file_id, file_key(file_id))
            await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        file = File(file_id, upload.size, upload.filename or "", purpose, file_key(file_id), 0)
        digest = f"{upload.digest}:{purpose}:{expires_ms}"
        try:
            made, replayed = await services.files.create(
                file, expires_after_ms=expires_ms, idempotency_key=key, digest=digest
            )
        except IdempotencyConflictError:
            await services.drop_object(file.key)
            raise  # after any other error the record may be there; where it is not, the sweep takes the object
        if replayed:
            await services.drop_object(file.key)
        await reply(send, 200, msgspec.json.encode(file_view(made)))

    def _read_fields(self, upload: Upload) -> tuple[str, int | None]:
        """Return the purpose, and for how many milliseconds the file is kept (None: for good)."""
        purpose = upload.fields.get("purpose")
        if purpose is None:
            raise invalid("purpose: Field required", "purpose")
        if purpose not in PURPOSES:
            raise invalid(f"purpose must be one of {', '.join(PURPOSES)}", "purpose")
        anchor = upload.fields.get("expires_after[anchor]")
        seconds = upload.fields.get("expires_after[seconds]")
        if anchor is not None or seconds is not None:
            return purpose, expires_after_s(anchor, seconds, "expires_after") * 1000
        default_s = self._services.settings.file_retention_s
        return purpose, int(default_s * 1000) if purpose == "batch" else None

    async def content(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/files/{file_id}/content``."""
        file_id = scope["path_params"]["file_id"]
        file = await self._services.files.get(file_id) if is_file_id(file_id) else None
        if file is None:
            raise file_not_found(file_id)
        start, end, partial = _range(header(scope, b"range"), file.size)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % (end - start)),
            (b"accept-ranges", b"bytes"),
            (b"etag", b'"%b"' % file.id.encode()),
        ]
        if partial:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, file.size)))
        pieces = self._services.storage.read(file.key, start, end)
        try:
            first = await anext(pieces, b"")  # what fails at once is answered by its status
        except MissingObjectError:
            raise file_not_found(file_id) from None
        await send({"type": "http.response.start", "status": 206 if partial else 200, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _range(asked: bytes | None, size: int) -> tuple[int, int, bool]:
    """Read a ``Range`` header (RFC 9110 section 14): (start, end, whether it is a part). Several ranges: the whole file.

    Raises:
        ApiError: 416, it lies behind the end.
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
        message = f"the file has {size} bytes"
        raise ApiError(416, message, "range_not_satisfiable", headers={"content-range": f"bytes */{size}"})
    return start, end, True


def idempotency_key(scope: Scope) -> str | None:
    """Read the header ``Idempotency-Key``.

    Raises:
        ApiError: 400, it is empty or longer than 255 characters.
    """
    value = header(scope, b"idempotency-key")
    if value is None:
        return None
    if not 1 <= len(value) <= 255:
        raise invalid("Idempotency-Key must have 1 to 255 characters", "Idempotency-Key")
    return value.decode("latin-1")


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    calls = Files(services)
    docs: dict[str, Any] = {"tags": ["batches"], "response_class": Response}
    router.routes.append(
        RawRoute(
            "/v1/files",
            calls.create,
            methods=["POST"],
            name="create_file",
            summary="Upload a file",
            description="Streamed to storage; answered when it is on disk.",
            responses={200: {"model": FileObject}, **error_docs(400, 409, 413, 503, 507)},
            openapi_extra={"requestBody": _FORM_DOCS, "parameters": [_KEY_DOCS]},
            **docs,
        )
    )
    router.routes.append(
        RawRoute(
            "/v1/files/{file_id}/content",
            calls.content,
            methods=["GET"],
            name="file_content",
            summary="Get a file's content",
            description="Takes `Range`.",
            responses={
                200: {"description": "The bytes.", "content": {"application/octet-stream": {}}},
                206: {"description": "The asked for bytes.", "content": {"application/octet-stream": {}}},
                **error_docs(404, 416, 503),
            },
            openapi_extra={
                "parameters": [_ID_DOCS, {"name": "Range", "in": "header", "schema": {"type": "string"}}]
            },
            **docs,
        )
    )

    def answer(view: dict[str, Any]) -> Response:
        return Response(msgspec.json.encode(view), media_type="application/json")

    @router.get(
        "/v1/files",
        summary="List files",
        responses={200: {"model": FileList}, **error_docs(400, 503)},
        **docs,
    )
    async def list_files(
        after: Annotated[str | None, Query(description="A file's id: those behind it.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Files in a page.")] = 10_000,
        order: Annotated[Literal["asc", "desc"], Query(description="By creation time.")] = "desc",
        purpose: Annotated[str | None, Query(max_length=64, description="Only those for this.")] = None,
    ) -> Response:
        """Newest first."""
        if after is not None and not is_file_id(after):
            raise invalid(f"after: not a file's id: {after[:64]!r}", "after")
        found, more = await services.files.page(
            after=after, limit=limit, newest_first=order == "desc", purpose=purpose
        )
        return answer(list_view([file_view(file) for file in found], more=more))

    @router.get(
        "/v1/files/{file_id}",
        summary="Get a file",
        responses={200: {"model": FileObject}, **error_docs(404, 503)},
        **docs,
    )
    async def get_file(file_id: str) -> Response:
        """Its record; see `/content` for its bytes."""
        file = await services.files.get(file_id) if is_file_id(file_id) else None
        if file is None:
            raise file_not_found(file_id)
        return answer(file_view(file))

    @router.delete(
        "/v1/files/{file_id}",
        summary="Delete a file",
        responses={200: {"model": FileDeleted}, **error_docs(404, 409, 503)},
        **docs,
    )
    async def delete_file(file_id: str) -> Response:
        """Refused while a batch that has not ended reads it."""
        if not is_file_id(file_id) or not await services.files.delete(file_id):
            raise file_not_found(file_id)
        return answer({"id": file_id, "object": "file", "deleted": True})
