"""Storage of files: a directory, or a bucket of an S3-compatible store."""

from storage.base import (
    MissingObjectError,
    ObjectInfo,
    Storage,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    UnreadableObjectError,
    Writer,
)
from storage.bodies import StoredBodies
from storage.choose import local_folders, open_storage

__all__ = [
    "MissingObjectError",
    "ObjectInfo",
    "Storage",
    "StorageError",
    "StorageFullError",
    "StorageUnavailableError",
    "StoredBodies",
    "UnreadableObjectError",
    "Writer",
    "local_folders",
    "open_storage",
]
