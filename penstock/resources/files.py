"""Files, for both clients: ``client.files``."""

from __future__ import annotations

from contextlib import nullcontext
from os import PathLike, fspath
from pathlib import PurePath
from typing import BinaryIO, Literal

from penstock._core import flows
from penstock._core.flows import Flow, Items
from penstock._core.parts import Call, Driver, Iteration, Part
from penstock._core.requests import Request, Upload, idempotent, segment
from penstock._core.tails import Download
from penstock.batch_models import Deleted, File
from penstock.models import Page

STORING_S = 600.0
"""How long the server may take to store a file after its last byte has arrived."""

Source = str | PathLike[str] | BinaryIO
"""A path, or a binary file that is open at its beginning."""


class Files(Part[Driver]):
    """Upload, list, read and delete files. No file is held in memory as a whole.

    Every call raises PenstockError; if the server does not know the id, that is a NotFoundError.
    """

    @Call
    def upload(
        self,
        source: Source,
        *,
        filename: str | None = None,
        purpose: str = "batch",
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[File]:
        """Send a file to the server and return it as the server knows it.

        Args:
            source: a path, or a binary file open at its beginning. One that cannot seek is sent once, without retries.
                The asynchronous client reads it from within the event loop, piece by piece.
            filename: the name that the server shows; None takes the source's.
            purpose: ``batch`` for the input of a batch.
            expires_after_s: seconds after which the server deletes it; None leaves that to the server.
            idempotency_key: the same key gives the same file; None makes a fresh one.

        Raises:
            BadRequestError: it is too large, or the purpose is unknown.
            OSError: it cannot be read.
        """
        fields = {"purpose": purpose}
        if expires_after_s is not None:
            fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expires_after_s)}
        with _open(source) as file:
            request = Request(
                "POST",
                "/v1/files",
                headers=idempotent(idempotency_key),
                upload=Upload(file, filename or _name(file), fields),
                extra_timeout_s=STORING_S,
            )
            return (yield from self._fetch(request, File))

    @Call
    def get(self, file_id: str) -> Flow[File]:
        """Return a file's name, size and times."""
        return self._fetch(Request("GET", _path(file_id)), File)

    @Iteration
    def list(
        self,
        *,
        purpose: str | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        page_size: int = 100,
    ) -> Items[File]:
        """Iterate over the files, newest first unless ``order`` is ``asc``.

        Args:
            purpose: only files of this purpose.
            order: ``desc`` or ``asc`` by creation.
            limit: the most files to return; None returns all.
            page_size: files per request.
        """
        return self._pages("/v1/files", Page[File], limit, page_size, purpose=purpose, order=order)

    @Iteration
    def content(self, file_id: str, offset: int = 0) -> Items[bytes]:
        """Iterate over a file's content, from byte ``offset`` on, in pieces of any length.

        A dropped connection is reopened at the first missing byte.

        Raises:
            APIConnectionError: ``max_reconnects`` connections in a row brought nothing.
        """
        return flows.read(Download(file_id, offset, self._settings.follows), lambda piece: piece)

    @Call
    def delete(self, file_id: str) -> Flow[bool]:
        """Delete a file; return whether the server did."""
        return (yield from self._fetch(Request("DELETE", _path(file_id)), Deleted)).deleted


def _path(file_id: str) -> str:
    return "/v1/files/" + segment(file_id, "the file's id")


def _open(source: Source) -> BinaryIO | nullcontext[BinaryIO]:
    """Open a path; a file that is already open stays the caller's to close."""
    if isinstance(source, (str, PathLike)):
        return open(fspath(source), "rb")  # noqa: PTH123 - the caller closes it
    return nullcontext(source)


def _name(file: BinaryIO) -> str:
    name = getattr(file, "name", None)  # a number if it was opened from a descriptor
    return PurePath(name).name if isinstance(name, str) and PurePath(name).name else "batch.jsonl"
