"""What an image's first bytes say: its format, and its width and height. Nothing is decoded. Pure.

Sources: PNG (RFC 2083, 4.1.1), GIF89a (18), JPEG (ITU T.81, B.2), WebP (RFC 9649, 2.4 to 2.7), BMP (``BITMAPINFOHEADER``).
"""

from __future__ import annotations

import struct
from typing import Final

HEAD_BYTES: Final = 16
"""First bytes that tell the format."""

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header, which has its size."""

_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers of a JPEG that nothing follows."""

_SCAN: Final = 0xDA
_CORE_HEADER_BYTES: Final = 12


def image_type(head: bytes) -> str | None:
    """Return the media type of an image by its first bytes; None: it is no image that engines read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels.

    Args:
        data: its first bytes: 32 are enough, but a JPEG may have much before its size.

    Returns:
        None: these bytes do not have them.
    """
    try:
        match image_type(data[:HEAD_BYTES]):
            case "image/png" if data[12:16] == b"IHDR":
                return struct.unpack_from(">II", data, 16)
            case "image/gif":
                return struct.unpack_from("<HH", data, 6)
            case "image/jpeg":
                return _of_jpeg(data)
            case "image/webp":
                return _of_webp(data)
            case "image/bmp":
                core = struct.unpack_from("<I", data, 14)[0] == _CORE_HEADER_BYTES
                width, height = struct.unpack_from("<HH" if core else "<ii", data, 18)
                return width, abs(height)
    except struct.error:  # too few bytes
        pass
    return None


def _of_jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        lead, marker = struct.unpack_from("BB", data, at)
        if lead != 0xFF or marker == _SCAN:
            return None
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2
        if marker not in _ALONE:
            (length,) = struct.unpack_from(">H", data, at)
            at += max(length, 2)


def _of_webp(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":
            first, last, height = struct.unpack_from("<HBH", data, 24)
            return 1 + first + (last << 16), 1 + height + (struct.unpack_from("B", data, 29)[0] << 16)
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None
