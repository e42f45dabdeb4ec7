"""Beyond OpenAI's Batches API: a batch's rows while it runs, in an order that only grows at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.access.identity import owner_of
from api.batches.cursor import ALL, ROLES, Position
from api.batches.view import found_batch
from api.http.errors import ApiError, invalid
from api.http.openapi import error_docs
from api.services import Services
from broker.db.errors import FileGoneError
from jobs.batch_model import Batch
from storage.base import read_lines
from storage.parts import committed_keys

MOST_BYTES = 8 * 1024 * 1024
"""A page ends when it holds so many bytes; it has one row at least."""


@dataclass(slots=True)
class Page:
    """Some rows, where the reader continues, and whether more rows are or may be there."""

    rows: list[bytes]
    position: Position
    incomplete: bool
    size: int = 0

    def add(self, line: bytes) -> None:
        """Add a row."""
        self.rows.append(line)
        self.size += len(line)


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.get(
        "/v1/batches/{batch_id}/results",
        operation_id="listBatchResults",
        summary="Read rows while it runs",
        responses={
            200: {"content": {"application/jsonl": {}}, "description": "Rows; see the headers."},
            **error_docs(400, 404, 410, 503),
        },
    )
    async def results(
        batch_id: str,
        request: Request,
        after: Annotated[str | None, Query(description="`X-Next-Cursor` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Rows in a page.")] = 1000,
    ) -> Response:
        """The committed rows, successful and failed. `X-Incomplete: true`: more rows are there, or will be."""
        batch = await found_batch(services, batch_id, owner_of(request.scope))
        position = Position() if after is None else Position.decode(after)
        page = await read_results(services, batch, position, limit)
        headers = {
            "x-incomplete": "true" if page.incomplete else "false",
            "x-next-cursor": page.position.encode(),
        }
        body = b"".join(row + b"\n" for row in page.rows)
        return Response(body, 200, headers, "application/jsonl")


async def read_results(services: Services, batch: Batch, position: Position, limit: int) -> Page:
    """Read up to ``limit`` rows after a position.

    Raises:
        ApiError: 410, the parts that the cursor counts in are gone. 400, the cursor is of another batch.
        FileGoneError: a file that is read in their place is gone.
        StorageError: storage fails.
    """
    page = Page([], position, incomplete=not batch.status.terminal)
    if batch.status.terminal and not await services.batches.has_parts(batch.id):
        if position.file is None and (position.before or position.at):
            message = "the cursor is too old: the batch has ended long since; read its output and error files"
            raise ApiError(410, message, "cursor_expired", param="after")
        await _read_files(services, batch, page, limit)
        return page
    if position.file is not None:
        raise invalid("after: this cursor is of a batch that has ended", "after")
    opened, done = await services.batches.chunks(batch.id)
    for number in sorted({*opened, *done}):
        if number < position.before:
            continue
        objects, _ = position.at.get(number, (0, 0))
        if objects != ALL:
            ledger = done[number] if number in done else opened[number].ledger
            whole = await _read_chunk(services, batch, number, ledger, page, limit)
            if whole and number in done:
                position.at[number] = (ALL, 0)
            if not whole:
                page.incomplete = True
                break
    while position.at.get(position.before) == (ALL, 0):
        del position.at[position.before]
        position.before += 1
    return page


async def _read_chunk(
    services: Services, batch: Batch, number: int, ledger: str, page: Page, limit: int
) -> bool:
    """Read what is committed of a chunk. Returns whether all of it was read."""
    position = page.position
    objects, skip = position.at.get(number, (0, 0))
    keys = await committed_keys(services.storage, batch.id, number, ledger)
    for place, (key, _, _) in enumerate(keys[objects:], objects):
        read = 0
        async for _, lines in read_lines(services.storage, key):
            for line in lines:
                read += 1
                if read <= skip:
                    continue
                if len(page.rows) >= limit or page.size >= MOST_BYTES:
                    position.at[number] = (place, read - 1)
                    return False
                page.add(line)
        skip = 0
        position.at[number] = (place + 1, 0)
    return True


async def _read_files(services: Services, batch: Batch, page: Page, limit: int) -> None:
    """Read from the output and the error file."""
    which, at = page.position.file or (0, 0)
    while which < len(ROLES):
        try:
            found = await services.files.of_batch(batch, ROLES[which])
        except FileGoneError:
            if not page.rows:
                raise
            page.position.file, page.incomplete = (which, at), True  # the next page says so
            return
        for file in found.values():
            if at > file.size:
                raise invalid("after: this cursor is not of this batch", "after")
            async for offset, lines in read_lines(services.storage, file.key, at):
                at = offset
                for line in lines:
                    if len(page.rows) >= limit or page.size >= MOST_BYTES:
                        page.position.file = (which, at)
                        page.incomplete = True
                        return
                    page.add(line)
                    at += len(line) + 1
        which, at = which + 1, 0
    page.position.file = (which, 0)
