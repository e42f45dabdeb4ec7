"""What an engine needs of a request: its body from wherever it is, and the files that it names."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from broker.claims import Claim
from broker.files import FileStore
from broker.jobs import JobStore
from jobs.batch_model import File
from jobs.endpoints import ENDPOINTS
from jobs.file_inputs import MARK, image_places, with_images
from jobs.floats import read_float
from jobs.image_headers import HEAD_BYTES, image_type
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
    """A request names a file that it cannot have: none of its tenant's, no image, or one that is too large."""


class Inputs:
    """Reads them. Of a file that is named, the tenant's own alone exists.

    Args:
        storage: opens the storage, at its first use.
        image_max_bytes: a larger image is not read.
        request_images_max_bytes: nor are images that have more together, each as often as the request names it.
        request_images_max: nor are more of them.
    """

    def __init__(
        self,
        store: JobStore,
        storage: Callable[[], Storage],
        *,
        image_max_bytes: int,
        request_images_max_bytes: int,
        request_images_max: int,
    ) -> None:
        self._store, self._files, self._storage = store, FileStore(store), storage
        self._image_max_bytes, self._request_max_bytes = image_max_bytes, request_images_max_bytes
        self._request_max = request_images_max

    async def of(self, claim: Claim) -> tuple[bytes, Upload | None]:
        """Return a claimed job's body, with its images in place, and its file, if its endpoint takes a form.

        Raises:
            NoSuchFileError: a file is missing, is no image, or is too large.
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
        return body, await self._read(await self._record(_named(body).file, claim.tenant))

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
        places = image_places(request)
        if not places:
            return body
        images = {}
        for file in await self._images(places, tenant):
            data = (await self._read(file)).data
            kind = image_type(data[:HEAD_BYTES])
            if kind is None:
                raise NoSuchFileError(f"the file {file.id} is no image (PNG, JPEG, GIF, WebP or BMP)")
            images[file.id] = (kind, data)
        return await asyncio.to_thread(_filled, request, images)

    async def _images(self, places: Counter[str], tenant: str) -> list[File]:
        """Return the records of images, if they are small enough to be read. Rows of batches pass no other check."""
        if places.total() > self._request_max:
            most = f"at most {self._request_max} are allowed (request_images_max)"
            raise NoSuchFileError(f"{places.total()} places name files; {most}")
        files, size = [], 0
        for ident, count in places.items():
            file = await self._record(ident, tenant)
            if file.size > self._image_max_bytes:
                raise NoSuchFileError(
                    f"the file {ident} is larger than {self._image_max_bytes} bytes (image_max_bytes)"
                )
            size += file.size * count
            if size > self._request_max_bytes:
                most = f"{self._request_max_bytes} bytes together (request_images_max_bytes)"
                raise NoSuchFileError(
                    f"the images are larger than {most}; a file counts at each place that names it"
                )
            files.append(file)
        return files

    async def _record(self, ident: str, tenant: str) -> File:
        file = await self._files.get(ident, owner=tenant)
        if file is None:
            raise _missing(ident)
        return file

    async def _read(self, file: File) -> Upload:
        try:
            return Upload(file.filename, await read_all(self._storage(), file.key))
        except MissingObjectError:
            if await self._files.get(file.id) is None:  # it was deleted meanwhile
                raise _missing(file.id) from None
            raise


def _filled(request: dict[str, object], images: dict[str, tuple[str, bytes]]) -> bytes:
    with_images(request, images)
    return _encode(request)


def _missing(ident: str) -> NoSuchFileError:
    return NoSuchFileError(f"the file {ident[:64]!r} does not exist; it may have expired or been deleted")
