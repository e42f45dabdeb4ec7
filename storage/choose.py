"""Opens the storage that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from jobs.sealing import Keyring
from storage.base import Storage
from storage.local import LocalStorage
from storage.remote import RemoteStorage, s3_store
from storage.sealed import SealedStorage


class StorageSettings(Protocol):
    """The settings of storage; see :class:`broker.settings.BrokerSettings`."""

    @property
    def data_dir(self) -> Path:
        """The folder of all local data; files are in its folder ``files`` by default."""

    @property
    def files_url(self) -> str | None:
        """A directory, or ``s3://bucket/prefix``; None: in ``data_dir``."""

    @property
    def files_s3_endpoint(self) -> str | None:
        """Address of an S3-compatible server; None: Amazon's."""

    @property
    def files_s3_region(self) -> str | None:
        """Its region."""

    @property
    def files_timeout_s(self) -> float:
        """Longest wait for one answer, in seconds."""

    @property
    def keyring(self) -> Keyring | None:
        """The keys that encrypt objects; None: they are written in clear."""


def open_storage(settings: StorageSettings) -> Storage:
    """Open the storage that the settings name, with encryption if they have keys.

    Of a directory, this creates the directory.

    Raises:
        StorageUnavailableError: the directory cannot be created.
    """
    return SealedStorage(_open(settings), settings.keyring)


def _open(settings: StorageSettings) -> Storage:
    url = settings.files_url
    if url is not None and url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        timeout_s = settings.files_timeout_s
        store = s3_store(bucket, prefix, settings.files_s3_endpoint, settings.files_s3_region, timeout_s)
        return RemoteStorage(store)
    return LocalStorage(settings.data_dir / "files" if url is None else Path(url))


def local_folders(settings: StorageSettings) -> dict[str, Path]:
    """Return this machine's folders that grow: ``data``, and ``files`` if it is elsewhere."""
    data, url = settings.data_dir.absolute(), settings.files_url
    folders = {"data": data}
    if url is not None and not url.startswith("s3://") and not Path(url).absolute().is_relative_to(data):
        folders["files"] = Path(url).absolute()
    return folders
