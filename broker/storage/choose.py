"""From settings to a storage."""

from __future__ import annotations

from pathlib import Path

from broker.settings import BrokerSettings
from broker.storage.base import Storage
from broker.storage.local import LocalStorage
from broker.storage.remote import RemoteStorage, s3_store


def open_storage(settings: BrokerSettings) -> Storage:
    """Open the storage that the settings name; nothing is read or written yet but the directory itself.

    Raises:
        StorageUnavailableError: the directory cannot be made.
    """
    url = settings.files_url
    if url is not None and url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        timeout_s = settings.files_timeout_s
        store = s3_store(bucket, prefix, settings.files_s3_endpoint, settings.files_s3_region, timeout_s)
        return RemoteStorage(store)
    return LocalStorage(settings.data_dir / "files" if url is None else Path(url))


def local_folders(settings: BrokerSettings) -> dict[str, Path]:
    """Return the folders of this machine that fill up: ``data``, and ``files`` where those are in another directory."""
    data, url = settings.data_dir.absolute(), settings.files_url
    folders = {"data": data}
    if url is not None and not url.startswith("s3://") and not Path(url).absolute().is_relative_to(data):
        folders["files"] = Path(url).absolute()
    return folders
