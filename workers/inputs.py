"""What an engine needs of a request: its body from wherever it is, and the files that it names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from broker.attempts import Claim
from broker.files import FileStore
from broker.jobs import JobStore
from jobs.endpoints import ENDPOINTS
from jobs.file_inputs import HEAD_BYTES, MARK, image_ids, image_type, with_images
from jobs.floats import read_float
from jobs.references import upload_key
from storage import MissingObjectError, Storage
from storage.base import read_all
from workers.engines.base import Upload

_decode = msgspec.json.Decoder(dict, float_hook=read_float).decode
_encode = msgspec.json.Encoder().encode


class _Named(msgspec.Struct):
    file: str = ""


_named = msgspec.json.Decoder(_Named).decode


class NoSuchFileError(Exception):
    """A request names a file that does not exist for its tenant, or is no image where an image is meant."""


class Inputs:
    """Reads them. Of a file that is named, the tenant's own alone exists.

    Args:
        storage: opens the storage, at its first use.
    """

    def __init__(self, store: JobStore, storage: Callable[[], Storage]) -> None:
        self._store, self._files, self._storage = store, FileStore(store), storage

    async def of(self, claim: Claim) -> tuple[bytes, Upload | None]:
        """Return a claimed job's body, with its images in place, and its file, if its endpoint takes a form.

        Raises:
            NoSuchFileError: a file is missing.
            StorageError: the body, or a file, cannot be read.
            StoreError: Redis is away.
        """
        body = await self._store.body_of(claim)
        endpoint = ENDPOINTS.get(claim.endpoint)
        if endpoint is None:  # a chunk
            return body, None
        if not endpoint.multipart:
            return await self.with_images(body, claim.tenant), None
        if claim.upload is not None:
            return body, Upload(claim.upload, await read_all(self._storage(), upload_key(claim.id)))
        return body, await self._file(_named(body).file, claim.tenant)

    async def with_images(self, body: bytes, tenant: str) -> bytes:
        """Return a body with its tenant's files in the places of their ids. One that names none is returned as it is.

        Raises:
            NoSuchFileError, StorageError, StoreError: as of :meth:`of`.
        """
        if MARK not in body:
            return body
        try:
            request = _decode(body)
        except (msgspec.DecodeError, RecursionError):
            return body  # the engine says what is wrong with it
        ids = image_ids(request)
        if not ids:
            return body
        images = {}
        for ident in ids:
            data = (await self._file(ident, tenant)).data
            kind = image_type(data[:HEAD_BYTES])
            if kind is None:
                raise NoSuchFileError(f"the file {ident} is no image (PNG, JPEG, GIF, WebP or BMP)")
            images[ident] = (kind, data)
        return await asyncio.to_thread(_filled, request, images)

    async def _file(self, ident: str, tenant: str) -> Upload:
        file = await self._files.get(ident, owner=tenant)
        if file is None:
            raise _missing(ident)
        try:
            return Upload(file.filename, await read_all(self._storage(), file.key))
        except MissingObjectError:
            if await self._files.get(ident, owner=tenant) is None:  # it was deleted meanwhile
                raise _missing(ident) from None
            raise


def _filled(request: dict[str, object], images: dict[str, tuple[str, bytes]]) -> bytes:
    with_images(request, images)
    return _encode(request)


def _missing(ident: str) -> NoSuchFileError:
    return NoSuchFileError(f"the file {ident[:64]!r} does not exist; it may have expired or been deleted")
