"""Files of ours that a request names, as its audio or as images: each exists, is the tenant's own, and of the right kind.

Workers read them, just before the engine runs the request (``workers/inputs.py``). An error there fails the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from api.admission.media import check_pixels, too_many
from api.http.errors import ApiError, file_not_found, invalid
from api.http.uploads import too_large
from api.services import Services
from jobs.batch_model import File
from jobs.endpoints import ENDPOINTS
from jobs.file_inputs import image_places
from jobs.ids import is_file_id
from jobs.image_headers import image_size, image_type
from storage import MissingObjectError

_HEAD_BYTES = 64 * 1024
"""First bytes of a file that are read for its format and its size in pixels."""


async def check_files(
    services: Services, endpoint: str, request: Mapping[str, Any], tenant: str, *, uploaded: bool
) -> None:
    """Refuse a request that names a file which it cannot have.

    Args:
        uploaded: the file of an endpoint that takes a form came with the call.

    Raises:
        ApiError: 400, it is no image, has too many pixels, or is one of too many; 404, it does not exist, or is another
            tenant's; 413, it is too large, or all images together are.
        StorageError: storage fails.
        StoreUnavailableError: Redis is away.
    """
    if ENDPOINTS[endpoint].multipart:
        if not uploaded:
            file = await _found(services, str(request.get("file")), tenant, "file")
            if file.size > services.settings.audio_max_bytes:
                raise too_large(services.settings.audio_max_bytes, "audio_max_bytes")
        return
    places, most = image_places(request), services.settings.request_images_max
    if places.total() > most:
        raise too_many(places.total(), most, "messages" if "messages" in request else "input")
    size = 0
    for ident, count in places.items():
        file = await _found(services, ident, tenant, "image_url")
        if file.size > services.settings.image_max_bytes:
            raise too_large(services.settings.image_max_bytes, "image_max_bytes")
        size += file.size * count
        if size > services.settings.request_images_max_bytes:
            raise _too_much(services.settings.request_images_max_bytes)
        head = await _head(services, file)
        if image_type(head) is None:
            message = f"the file {ident} is no image that can be shown to a model; upload a PNG, JPEG, GIF, WebP or BMP"
            raise invalid(message, "image_url", "invalid_value")
        pixels = image_size(head)
        if pixels is not None:
            check_pixels(pixels, services.settings.image_max_pixels, "image_url")


async def _found(services: Services, ident: str, tenant: str, param: str) -> File:
    file = await services.files.get(ident, owner=tenant) if is_file_id(ident) else None
    if file is None:
        raise file_not_found(ident, param)
    return file


def _too_much(most: int) -> ApiError:
    message = (
        f"the images of the request are larger than {most} bytes together (request_images_max_bytes); a file counts at each "
        "place that names it"
    )
    return ApiError(413, message, "file_too_large")


async def _head(services: Services, file: File) -> bytes:
    try:
        async with aclosing(services.storage.read(file.key, 0, min(_HEAD_BYTES, file.size))) as pieces:
            return b"".join([piece async for piece in pieces])
    except MissingObjectError:  # it is being deleted
        raise file_not_found(file.id, "image_url") from None
