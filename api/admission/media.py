"""The images, audio and video of a request: how many, how large, and of what form. A bad one never enters the queue.

Images are judged by their first bytes, none is decoded. The codes are those of OpenAI's ``response.error`` where it has one.
What only the model's pool decides is in :mod:`api.admission.media_rights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from api.http.errors import ApiError, invalid
from api.settings import ApiSettings
from jobs.ids import is_file_id
from jobs.image_headers import HEAD_BYTES, image_size, image_type
from jobs.media_parts import Kind, Media, media

_PIECE = 1024 * 1024
"""Characters of base64 that are decoded in one step: a third of a millisecond. A multiple of four."""

_FORMATS = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"})
_SAME = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp"}
_UNSAID = frozenset({"", "image/*", "application/octet-stream"})
_UPLOAD = "send a PNG, JPEG, GIF, WebP or BMP"


@dataclass(frozen=True, slots=True)
class Brought:
    """What a request brings beside text.

    Attributes:
        first: where the request has the first of each kind; its keys are the kinds that it brings.
        counts: how many of each.
        characters: of base64 in the body: text of no prompt.
        hosts: where it has an address to fetch, and the address's host.
        inline: the request has all of it, so a worker can count its tokens without a fetch.
        files: it names files of ours.
    """

    first: Mapping[Kind, str] = field(default_factory=dict)
    counts: Mapping[Kind, int] = field(default_factory=dict)
    characters: int = 0
    hosts: tuple[tuple[str, str], ...] = ()
    inline: bool = True
    files: bool = False


NOTHING = Brought()


def check_media(settings: ApiSettings, request: Mapping[str, Any]) -> Brought:
    """Refuse what no model can read, or is too large.

    Raises:
        ApiError: 400, naming the part.
    """
    found = list(media(request))
    if not found:
        return NOTHING
    if len(found) > settings.request_images_max:
        raise too_many(len(found), settings.request_images_max, found[settings.request_images_max].param)
    first: dict[Kind, str] = {}
    counts: dict[Kind, int] = {}
    characters, hosts, inline, files = 0, [], True, False
    for one in found:
        first.setdefault(one.kind, one.param)
        counts[one.kind] = counts.get(one.kind, 0) + 1
        kind, data = _inline(one)
        if data is not None:
            characters += len(data)
            _check_data(settings, one, kind, data)
            continue
        inline, files = False, files or is_file_id(one.url or "")
        if (host := _host(one)) is not None:
            hosts.append((one.param, host))
    return Brought(first, counts, characters, tuple(hosts), inline, files)


def too_many(count: int, most: int, param: str) -> ApiError:
    """Return the 400 for a request with more images, clips and videos than ``most``."""
    message = f"the request has {count} images, audio clips and videos; at most {most} are allowed (request_images_max)"
    return invalid(message, param, "too_many_images")


def check_pixels(size: tuple[int, int], most: int, param: str) -> None:
    """Refuse an image that would take too much memory, or has no area.

    Raises:
        ApiError: 400.
    """
    width, height = size
    if width * height > most:
        bound = f"more than {most} (image_max_pixels)"
        message = f"{param}: the image has {width} x {height} pixels, {bound}; send a smaller one"
        raise invalid(message, param, "image_too_large")
    if not width * height:
        raise invalid(f"{param}: the image has {width} x {height} pixels", param, "image_parse_error")


def _inline(one: Media) -> tuple[str, str | None]:
    """Return the media type that is said ("": none), and the base64 in the request; None: it is elsewhere."""
    if one.url is None:
        return (one.media_type or "").lower(), one.data
    if one.url[:5].lower() != "data:":
        return "", None
    comma = one.url.find(",")
    kind, _, encoding = one.url[5:comma].rpartition(";")
    if comma < 0 or encoding != "base64":
        message = f"{one.param}: a data URI must be data:TYPE;base64,DATA"
        raise invalid(message, one.param, "invalid_image_url" if one.kind == "image" else "invalid_value")
    return kind.partition(";")[0].strip().lower(), one.url[comma + 1 :]


def _host(one: Media) -> str | None:
    """Return the host of an address that a worker would fetch; None: it fetches nothing.

    Raises:
        ApiError: 400, it is no address.
    """
    url = one.url or ""
    if is_file_id(url):
        return None
    try:
        split = urlsplit(url)
        scheme, host = split.scheme, split.hostname
    except ValueError:
        scheme, host = "", None
    if scheme == "file":
        return None  # the worker's flag --allowed-local-media-path decides
    if scheme not in {"http", "https"} or not host:
        message = f"{one.param}: {url[:64]!r} is neither a data URI nor an http address, nor a file of yours"
        raise invalid(message, one.param, "invalid_image_url" if one.kind == "image" else "invalid_value")
    return host


def _check_data(settings: ApiSettings, one: Media, kind: str, data: str) -> None:
    most = settings.image_max_bytes if one.kind == "image" else settings.audio_max_bytes
    size = len(data) * 3 // 4 - data[-2:].count("=")
    if one.kind != "video" and size > most:
        name = f"{one.kind}_max_bytes"
        message = (
            f"{one.param}: the {one.kind} has {size} bytes, more than {most} ({name}); send a smaller one"
        )
        raise invalid(
            message, one.param, f"{one.kind}_file_too_large" if one.kind == "image" else "invalid_audio"
        )
    pieces = _decoded(one, data)
    if one.kind != "image":
        for _ in pieces:
            pass
        return
    if kind and kind not in _UNSAID and _SAME.get(kind, kind) not in _FORMATS:
        message = f"{one.param}: models read no {kind[:64]}; {_UPLOAD}"
        raise invalid(message, one.param, "unsupported_image_media_type")
    _check_image(settings, one, kind, pieces)


def _check_image(settings: ApiSettings, one: Media, said: str, pieces: Iterator[bytes]) -> None:
    head = next(pieces, b"")
    if not head:
        raise invalid(f"{one.param}: the image is empty", one.param, "empty_image_file")
    kind = image_type(head[:HEAD_BYTES])
    if kind is None:
        message = f"{one.param}: the data is no image that can be shown to a model; {_UPLOAD}"
        raise invalid(message, one.param, "invalid_image_format")
    if said not in _UNSAID and _SAME.get(said, said) != kind:
        message = f"{one.param}: it says {said}, but the data is {kind}; name its own type"
        raise invalid(message, one.param, "invalid_image_format")
    size = image_size(head)
    for piece in pieces:  # all of it, since the rest must be base64 too
        if size is None:
            head += piece
            size = image_size(head)
    if size is None:
        message = f"{one.param}: the {kind} has no width and height; it is broken or cut off"
        raise invalid(message, one.param, "image_parse_error")
    check_pixels(size, settings.image_max_pixels, one.param)


def _decoded(one: Media, data: str) -> Iterator[bytes]:
    """Decode base64 piece by piece, as strictly as vLLM does.

    Raises:
        ApiError: 400, it is none.
    """
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        if piece.endswith("=") and start + _PIECE < len(data):
            raise _no_base64(one)
        try:
            # Three times as fast as binascii, which also takes padding that vLLM does not.
            yield msgspec.convert(piece, bytes)
        except msgspec.ValidationError:
            raise _no_base64(one) from None


def _no_base64(one: Media) -> ApiError:
    code = (
        "invalid_base64_image"
        if one.kind == "image"
        else "invalid_audio"
        if one.kind == "audio"
        else "invalid_value"
    )
    message = f"{one.param}: the data is not base64 (RFC 4648, section 4): letters, digits, + and / in fours, = at the end"
    return invalid(message, one.param, code)
