"""The JSON file object. Pure."""

from __future__ import annotations

from typing import Any

from jobs.batch_model import File


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
