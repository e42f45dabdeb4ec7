"""Files, for both clients: ``client.files``.

Arguments, results and errors are documented at :class:`Files`; :class:`AsyncFiles` is the same, awaited.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import nullcontext
from os import PathLike, fspath
from pathlib import PurePath
from typing import BinaryIO, Literal

from penstock._core import batch_protocol as protocol
from penstock._core import flows as flows
from penstock._core.drivers import AsyncPart, SyncPart
from penstock._core.paging import Pager
from penstock._core.protocol import Upload
from penstock._core.tails import Download
from penstock.batch_models import Deleted, File, FilePage

Source = str | PathLike[str] | BinaryIO
"""A path, or a binary file that is open at its beginning."""


class Files(SyncPart):
    """``client.files``. Content is never held in memory as a whole."""

    def upload(
        self,
        source: Source,
        *,
        filename: str | None = None,
        purpose: str = "batch",
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        """Send a file to the server and return what it is known as there.

        Args:
            source: a path, or a binary file open at its beginning. What cannot seek is sent once, without retries.
            filename: the name the server shall show; None takes the source's.
            purpose: ``batch`` for the input of a batch.
            expires_after_s: seconds after which the server deletes it; None leaves that to the server.
            idempotency_key: the same key gives the same file; None makes a fresh one.

        Raises:
            BadRequestError: it is too large, or the purpose is unknown.
            OSError: it cannot be read.
            PenstockError: any other error of a call.
        """
        with _open(source) as file:
            request = protocol.upload(
                Upload(file, filename or _name(file)),
                purpose=purpose,
                expires_after_s=expires_after_s,
                idempotency_key=idempotency_key,
            )
            return self._run(flows.fetch(request, File, self._settings.calls))

    def get(self, file_id: str) -> File:
        """Return what the server knows of a file.

        Raises:
            NotFoundError: there is no such file.
            PenstockError: any other error of a call.
        """
        return self._run(flows.fetch(protocol.file(file_id), File, self._settings.calls))

    def list(
        self,
        *,
        purpose: str | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Iterator[File]:
        """Iterate over the files, newest first unless ``order`` is ``asc``.

        Args:
            purpose: only files of this purpose.
            order: ``desc`` or ``asc`` by creation.
            limit: stop after so many; None goes through all.
            page_size: files per request.

        Raises:
            PenstockError: any error of a call, while iterating.
        """
        pager: Pager[File] = Pager(
            lambda size, after: protocol.files_page(purpose=purpose, order=order, limit=size, after=after),
            limit,
            page_size,
        )
        while (request := pager.request()) is not None:
            flow = flows.fetch(request, FilePage, self._settings.calls)
            yield from pager.take(self._run(flow))

    def content(self, file_id: str, offset: int = 0) -> Generator[bytes]:
        """Iterate over a file's content, from byte ``offset`` on, in pieces of any length.

        A dropped connection is reopened at the byte that is missing.

        Raises:
            NotFoundError: there is no such file.
            APIConnectionError: the content could not be read on, ``max_reconnects`` times in a row.
            PenstockError: any other error of a call.
        """
        yield from self._tail(Download(file_id, offset, self._settings.follows))

    def delete(self, file_id: str) -> bool:
        """Delete a file; return whether the server did.

        Raises:
            NotFoundError: there is no such file.
            PenstockError: any other error of a call.
        """
        flow = flows.fetch(protocol.delete_file(file_id), Deleted, self._settings.calls)
        return self._run(flow).deleted


class AsyncFiles(AsyncPart):
    """As :class:`Files`, for one event loop. The source of an upload is read from within it, piece by piece."""

    async def upload(
        self,
        source: Source,
        *,
        filename: str | None = None,
        purpose: str = "batch",
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        """Send a file to the server: see :meth:`Files.upload`."""
        with _open(source) as file:
            request = protocol.upload(
                Upload(file, filename or _name(file)),
                purpose=purpose,
                expires_after_s=expires_after_s,
                idempotency_key=idempotency_key,
            )
            return await self._run(flows.fetch(request, File, self._settings.calls))

    async def get(self, file_id: str) -> File:
        """Return what the server knows of a file: see :meth:`Files.get`."""
        return await self._run(flows.fetch(protocol.file(file_id), File, self._settings.calls))

    async def list(
        self,
        *,
        purpose: str | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[File]:
        """Iterate over the files: see :meth:`Files.list`."""
        pager: Pager[File] = Pager(
            lambda size, after: protocol.files_page(purpose=purpose, order=order, limit=size, after=after),
            limit,
            page_size,
        )
        while (request := pager.request()) is not None:
            flow = flows.fetch(request, FilePage, self._settings.calls)
            for file in pager.take(await self._run(flow)):
                yield file

    async def content(self, file_id: str, offset: int = 0) -> AsyncGenerator[bytes]:
        """Iterate over a file's content: see :meth:`Files.content`."""
        pieces = self._tail(Download(file_id, offset, self._settings.follows))
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def delete(self, file_id: str) -> bool:
        """Delete a file: see :meth:`Files.delete`."""
        flow = flows.fetch(protocol.delete_file(file_id), Deleted, self._settings.calls)
        return (await self._run(flow)).deleted


def _open(source: Source) -> BinaryIO | nullcontext[BinaryIO]:
    """Open a path; a file that is open already stays the caller's to close."""
    if isinstance(source, (str, PathLike)):
        return open(fspath(source), "rb")  # noqa: PTH123 - the caller closes it
    return nullcontext(source)


def _name(file: BinaryIO) -> str:
    name = getattr(file, "name", None)  # a number where it was opened from a descriptor
    return PurePath(name).name if isinstance(name, str) and PurePath(name).name else "batch.jsonl"
