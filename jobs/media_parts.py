"""The images, audio clips and videos of a request: which parts of its messages bring them, and how. Pure.

==========  =====================================================================================================
kind        parts
==========  =====================================================================================================
``image``   chat: ``image_url``, ``file``; Responses: ``input_image``; Messages: ``image``, also in a tool's result
``audio``   ``input_audio`` (base64), ``audio_url``
``video``   ``video_url``
==========  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Kind = Literal["image", "audio", "video"]
Part: TypeAlias = dict[str, Any]

_NESTED: Final = ("content", "output")
"""Members of an item, or of a tool's result inside it, that hold parts."""

_URLS: Final[tuple[tuple[str, Kind], ...]] = (
    ("image_url", "image"),
    ("audio_url", "audio"),
    ("video_url", "video"),
)


@dataclass(frozen=True, slots=True)
class Media:
    """One of them.

    Attributes:
        param: where the request has it, as ``messages.0.content.1``.
        url: a data URI, an address, or the id of a file of ours; None: ``data`` has it.
        data: its bytes as base64.
        media_type: what ``data`` is; None: the request does not say.
    """

    kind: Kind
    param: str
    url: str | None = None
    data: str | None = None
    media_type: str | None = None


def parts(request: Mapping[str, Any]) -> Iterator[tuple[str, Part]]:
    """Yield (where it is, the part) for each part of the request's messages or items."""
    for field in ("messages", "input"):
        items = request.get(field)
        for place, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict):
                yield from _inside(f"{field}.{place}", item)


def _inside(where: str, item: Part, *, nested: bool = False) -> Iterator[tuple[str, Part]]:
    for name in _NESTED:
        inner = item.get(name)
        for place, part in enumerate(inner if isinstance(inner, list) else ()):
            if isinstance(part, dict):
                at = f"{where}.{name}.{place}"
                yield at, part
                if not nested:  # no result holds another one
                    yield from _inside(at, part, nested=True)


def media(request: Mapping[str, Any]) -> Iterator[Media]:
    """Yield what a request brings, in order."""
    for where, part in parts(request):
        found = _media(where, part)
        if found is not None:
            yield found


def _media(where: str, part: Part) -> Media | None:
    match part:
        case {"type": "image", "source": {"type": "base64", "data": str(data)} as source}:
            kind = source.get("media_type")
            return Media("image", where, data=data, media_type=kind if isinstance(kind, str) else None)
        case {"type": "image", "source": {"url": str(url)} | {"file_id": str(url)}}:
            return Media("image", where, url)
        case {"type": "input_audio", "input_audio": {"data": str(data)}}:
            return Media("audio", where, data=data)
        case {"type": "input_image", "file_id": str(ident)} | {
            "type": "file",
            "file": {"file_id": str(ident)},
        }:
            return Media("image", where, ident)
    for name, sort in _URLS:
        given = part.get(name)
        address = given.get("url") if isinstance(given, dict) else given
        if isinstance(address, str):
            return Media(sort, where, address)
    return None
