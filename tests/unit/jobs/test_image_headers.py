"""Format and size of an image by its first bytes; Pillow is the oracle."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from jobs.image_headers import image_size, image_type
from tests.pictures import picture

TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}


def saved(form: str, mode: str, size: tuple[int, int], **how: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, form, **how)
    return out.getvalue()


FILES = [
    *((form, picture(size=(123, 45), form=form)) for form in TYPES),
    ("PNG", saved("PNG", "RGBA", (123, 45))),
    ("JPEG", saved("JPEG", "L", (123, 45), progressive=True)),
    ("JPEG", saved("JPEG", "RGB", (123, 45), icc_profile=b"p" * 70_000, exif=b"Exif\0\0" + b"e" * 60_000)),
    ("WEBP", saved("WEBP", "RGB", (123, 45), lossless=True)),
    ("WEBP", saved("WEBP", "RGBA", (123, 45), exif=b"Exif\0\0MM")),
    ("BMP", saved("BMP", "1", (123, 45))),
]


@pytest.mark.parametrize(("form", "data"), FILES)
def test_as_pillow_says(form: str, data: bytes) -> None:
    assert image_type(data) == TYPES[form]
    assert image_size(data) == Image.open(io.BytesIO(data)).size == (123, 45)


@pytest.mark.parametrize(("form", "data"), FILES)
def test_any_cut_is_either_the_size_or_unknown(form: str, data: bytes) -> None:
    cuts = range(min(len(data), 200))
    assert {image_size(data[:cut]) for cut in cuts} <= {None, (123, 45)}, form


@pytest.mark.parametrize("size", [(16_383, 1), (1, 16_383), (700, 500)])
def test_large_sizes(size: tuple[int, int]) -> None:
    files = [saved("WEBP", "L", size, quality=1), saved("WEBP", "L", size, lossless=True), picture(size=size)]
    assert [image_size(file) for file in files] == [size] * 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7",
        b"RIFF....WAVE",
        b"\x89PNG\r\n\x1a\n" + b"." * 40,
        b"\xff\xd8\xff\xda" + b"\0" * 40,
        b"\xff\xd8\xff\xe0\0\0" * 9,
        b"RIFF....WEBPVP8?" + b"\0" * 40,
    ],
)
def test_what_has_no_size(data: bytes) -> None:
    assert image_size(data) is None
