"""Files of ours that a request names as images: where it names them, and the request with their bytes in place. Pure.

===============  ====================================================================================
endpoint         forms
===============  ====================================================================================
chat             ``{"type": "image_url", "image_url": {"url": "file-…"}}``,
                 ``{"type": "file", "file": {"file_id": "file-…"}}``
responses        ``{"type": "input_image", "file_id": "file-…"}``, or the id as ``image_url``
messages         ``{"type": "image", "source": {"type": "file", "file_id": "file-…"}}``
===============  ====================================================================================

The engine gets a data URI, and never a file's id.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jobs.ids import FILE_PREFIX, is_file_id
from jobs.media_parts import Part, parts

MARK: Final = FILE_PREFIX.encode()
"""Found in every request that names a file; without it there is nothing to look for."""


def image_places(request: Mapping[str, Any]) -> Counter[str]:
    """Return the files that a request names as images, in order, and how many places name each."""
    return Counter(ident for _, ident in _places(request))


def with_images(request: Mapping[str, Any], images: Mapping[str, tuple[str, bytes]]) -> None:
    """Put images in the places of their files' ids, in the request itself.

    Args:
        images: media type and bytes by the file's id; of every file that :func:`image_places` returned.
    """
    encoded = {ident: (kind, base64.b64encode(data).decode()) for ident, (kind, data) in images.items()}
    for put, ident in list(_places(request)):
        put(*encoded[ident])


def _places(request: Mapping[str, Any]) -> Iterator[tuple[Callable[[str, str], None], str]]:
    """Yield (what puts an image there, the file's id) for each place that names a file."""
    for _, part in parts(request):
        found = _reference(part)
        if found is not None and is_file_id(found[1]):
            yield found


def _reference(part: Part) -> tuple[Callable[[str, str], None], str] | None:
    """Return what puts an image into a part, and the text in the place of the file's id; None: it names no file."""
    inner: Any
    match part:
        case {"type": "image_url", "image_url": {"url": str(ident)} as inner}:
            return lambda kind, data: inner.update(url=_uri(kind, data)), ident
        case {"type": "file", "file": {"file_id": str(ident)}}:
            return lambda kind, data: _become_image(part, kind, data), ident
        case {"type": "input_image", "file_id": str(ident)}:
            return lambda kind, data: _become_input_image(part, kind, data), ident
        case {"type": "input_image", "image_url": str(ident)}:
            return lambda kind, data: part.update(image_url=_uri(kind, data)), ident
        case {"type": "image", "source": {"type": "file", "file_id": str(ident)}}:
            return lambda kind, data: part.update(
                source={"type": "base64", "media_type": kind, "data": data}
            ), ident
    return None


def _become_image(part: Part, kind: str, data: str) -> None:
    del part["file"]
    part.update(type="image_url", image_url={"url": _uri(kind, data)})


def _become_input_image(part: Part, kind: str, data: str) -> None:
    del part["file_id"]
    part.update(image_url=_uri(kind, data))


def _uri(kind: str, data: str) -> str:
    return f"data:{kind};base64,{data}"
