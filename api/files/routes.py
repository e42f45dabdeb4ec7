"""The Files API's routes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.access.identity import actor_of, owner_of
from api.files.content import FileContent
from api.files.create import CreateFile
from api.files.schema import UPLOAD_FORM, FileDeleted, FileList, FileObject
from api.files.view import file_view, found_file
from api.http.asgi import add_raw_route, json_response
from api.http.errors import file_not_found
from api.http.idempotency import key_parameter
from api.http.openapi import answers, error_docs, parameter
from api.http.pages import Order, list_view, not_of_list
from api.services import Services
from jobs.ids import is_file_id

_BYTES: dict[str, Any] = {"application/octet-stream": {}}


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    add_raw_route(
        router,
        "POST",
        "/v1/files",
        CreateFile(services),
        name="create_file",
        operation_id="createFile",
        summary="Upload a file",
        description="Streamed to storage; answered when it is on disk.",
        responses=answers(FileObject, 400, 409, 413, 429, 503, 507),
        openapi_extra={"requestBody": UPLOAD_FORM, "parameters": [key_parameter("file")]},
    )
    add_raw_route(
        router,
        "GET",
        "/v1/files/{file_id}/content",
        FileContent(services),
        name="file_content",
        operation_id="downloadFile",
        summary="Get a file's content",
        description="Takes `Range`.",
        responses={
            200: {"description": "The bytes.", "content": _BYTES},
            206: {"description": "The bytes of the range.", "content": _BYTES},
            **error_docs(404, 416, 503),
        },
        openapi_extra={"parameters": [parameter("path", "file_id"), parameter("header", "Range")]},
    )

    @router.get(
        "/v1/files", operation_id="listFiles", summary="List files", responses=answers(FileList, 400, 503)
    )
    async def list_files(
        request: Request,
        after: Annotated[str | None, Query(description="The last file's id of the previous page.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Most files in a page.")] = 10_000,
        order: Order = "desc",
        purpose: Annotated[
            str | None, Query(max_length=64, description="Only files of this purpose.")
        ] = None,
    ) -> Response:
        """Newest first."""
        if after is not None and not is_file_id(after):
            raise not_of_list(after, "a file")
        found, more = await services.files.page(
            after=after,
            limit=limit,
            newest_first=order == "desc",
            purpose=purpose,
            owner=owner_of(request.scope),
        )
        return json_response(list_view([file_view(file) for file in found], more=more))

    @router.get(
        "/v1/files/{file_id}",
        operation_id="getFile",
        summary="Get a file",
        responses=answers(FileObject, 404, 503),
    )
    async def get_file(file_id: str, request: Request) -> Response:
        """The file's record. `/content` has its bytes."""
        return json_response(file_view(await found_file(services, file_id, owner_of(request.scope))))

    @router.delete(
        "/v1/files/{file_id}",
        operation_id="deleteFile",
        summary="Delete a file",
        responses=answers(FileDeleted, 404, 409, 503),
    )
    async def delete_file(file_id: str, request: Request) -> Response:
        """Refused while a batch that has not ended reads the file."""
        owner, by = owner_of(request.scope), actor_of(request.scope)
        if not is_file_id(file_id) or not await services.files.delete(file_id, owner=owner, by=by):
            raise file_not_found(file_id)
        return json_response({"id": file_id, "object": "file", "deleted": True})
