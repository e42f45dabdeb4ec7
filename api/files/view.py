"""OpenAI's file objects and lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.http.errors import ApiError, invalid
from jobs.batch_model import File

PURPOSES = ("batch", "user_data", "assistants", "vision", "fine-tune", "evals")
"""What an upload may be for. Batches read ``batch``; the others are kept and given back."""


class FileObject(BaseModel):
    """A file, as OpenAI describes one."""

    id: str = Field(examples=["file-0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"])
    object: Literal["file"]
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = Field(description="Unix seconds; null: kept until it is deleted.")
    filename: str
    purpose: str = Field(examples=["batch", "batch_output"])
    status: Literal["processed"]
    status_details: None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


def file_view(file: File) -> dict[str, Any]:
    """Return the file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_ms // 1000,
        "expires_at": None if file.expires_ms is None else file.expires_ms // 1000,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def list_view(data: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return a list object."""
    ids = [item["id"] for item in data]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": more}


def file_not_found(file_id: str) -> ApiError:
    """Make the 404 for a file."""
    return ApiError(404, f"No such File object: {file_id[:64]}", "file_not_found", param="id")


def expires_after_s(anchor: Any, seconds: Any, param: str) -> int:
    """Read an expiry policy.

    Raises:
        ApiError: 400, the anchor is not ``created_at``, or the seconds not 3600 to 2592000.
    """
    if anchor != "created_at":
        raise invalid(f"{param}.anchor must be 'created_at'", f"{param}.anchor")
    try:
        value = int(seconds)
    except (TypeError, ValueError):
        value = -1
    if not 3600 <= value <= 2_592_000:
        raise invalid(f"{param}.seconds must be 3600 (an hour) to 2592000 (30 days)", f"{param}.seconds")
    return value
