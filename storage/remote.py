"""Objects in a bucket of an S3-compatible store, through obstore; the reading half serves directories too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from storage.base import (
    BLOCK,
    MissingObjectError,
    ObjectInfo,
    StorageFullError,
    StorageUnavailableError,
    Writer,
)

_UPLOAD_PART = 8 * BLOCK
_FULL = ("StorageFull", "No space left", "os error 28", "Disk quota", "QuotaExceeded", "InsufficientStorage")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn obstore's errors into ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObjectError(f"{what}: there is no such object") from error
    except (BaseError, OSError) as error:
        text = str(error)
        kind = StorageFullError if any(word in text for word in _FULL) else StorageUnavailableError
        raise kind(f"{what}: {text.splitlines()[0][:300] if text else type(error).__name__}") from error


class ObstoreReads:
    """The reading half, over any of obstore's stores."""

    _store: Any

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """See :class:`storage.base.Storage`."""
        if end is not None and start >= end:
            return
        options: Any = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        with translated(f"read {key}"):
            reply = await obstore.get_async(self._store, key, options=options)
            async for piece in reply.stream(min_chunk_size=BLOCK):
                yield bytes(piece)

    async def size(self, key: str) -> int:
        """See :class:`storage.base.Storage`."""
        with translated(f"look at {key}"):
            return int((await obstore.head_async(self._store, key))["size"])

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """See :class:`storage.base.Storage`."""
        with translated(f"list {prefix}"):
            found = await obstore.list(self._store, prefix=prefix).collect_async()
        return sorted((ObjectInfo(one["path"], one["size"]) for one in found), key=lambda one: one.key)


class RemoteStorage(ObstoreReads):
    """See :class:`storage.base.Storage`.

    Args:
        store: one of obstore's stores.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    async def writer(self, key: str) -> Writer:
        """See :class:`storage.base.Storage`."""
        return _RemoteWriter(self._store, key)

    async def put(self, key: str, data: bytes) -> None:
        """See :class:`storage.base.Storage`."""
        with translated(f"write {key}"):
            await obstore.put_async(self._store, key, data)

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`storage.base.Storage`."""
        for first in range(0, len(keys), 500):
            with translated("delete"):
                try:
                    await obstore.delete_async(self._store, list(keys[first : first + 500]))
                except FileNotFoundError:
                    continue


class _RemoteWriter:
    """A multipart upload: the object appears when the upload is completed."""

    def __init__(self, store: Any, key: str) -> None:
        self._key = key
        self._size = 0
        self._out = obstore.open_writer_async(store, key, buffer_size=_UPLOAD_PART, max_concurrency=2)

    async def write(self, data: bytes) -> None:
        with translated(f"write {self._key}"):
            await self._out.write(data)
        self._size += len(data)

    async def commit(self) -> int:
        with translated(f"write {self._key}"):
            await self._out.close()
        return self._size

    async def abort(self) -> None:
        """What was uploaded is the bucket's lifecycle rule's to remove (see docs/bulk/batches.md)."""
        del self._out


def s3_store(bucket: str, prefix: str, endpoint: str | None, region: str | None, timeout_s: float) -> Any:
    """Make obstore's S3 store. Credentials come from the environment (``AWS_ACCESS_KEY_ID``, ...) or the machine's role."""
    config: Any = {}
    if endpoint is not None:
        config["endpoint"] = endpoint
        config["virtual_hosted_style_request"] = False
    if region is not None:
        config["region"] = region
    plain = endpoint is not None and endpoint.startswith("http://")
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={"allow_http": plain, "timeout": timedelta(seconds=timeout_s)},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=timeout_s)},
    )
