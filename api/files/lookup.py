"""Looking up the file that a request names."""

from __future__ import annotations

from api.http.errors import ApiError
from api.services import Services
from jobs.batch_model import File
from jobs.ids import is_file_id


def file_not_found(file_id: str) -> ApiError:
    """Make the 404 for a file."""
    message = f"the file {file_id[:64]!r} does not exist; it may have expired or been deleted"
    return ApiError(404, message, "file_not_found", param="id")


async def found_file(services: Services, file_id: str) -> File:
    """Read a file's record.

    Raises:
        ApiError: 404, it does not exist.
    """
    file = await services.files.get(file_id) if is_file_id(file_id) else None
    if file is None:
        raise file_not_found(file_id)
    return file
