"""The file that a request names, and its JSON object."""

from __future__ import annotations

from typing import Any

from api.http.errors import file_not_found
from api.services import Services
from jobs.batch_model import File
from jobs.ids import is_file_id


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


async def found_file(services: Services, file_id: str, owner: str | None) -> File:
    """Read a file's record.

    Args:
        owner: the tenant that asks; None: an admin.

    Raises:
        ApiError: 404, it does not exist, or is another tenant's.
    """
    file = await services.files.get(file_id, owner=owner) if is_file_id(file_id) else None
    if file is None:
        raise file_not_found(file_id)
    return file
