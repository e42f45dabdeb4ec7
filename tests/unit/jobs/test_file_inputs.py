"""Files that a request names as images."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from jobs.file_inputs import image_places, with_images
from jobs.ids import make_id
from jobs.image_headers import image_type

FILE, OTHER = (make_id("file-", 1, bytes([n] * 10)) for n in (1, 2))
PNG = b"\x89PNG\r\n\x1a\n...."
URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def chat(*parts: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": list(parts)}],
    }


def responses(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(parts)}]}


CASES = [
    (
        chat({"type": "image_url", "image_url": {"url": FILE, "detail": "low"}}),
        chat({"type": "image_url", "image_url": {"url": URI, "detail": "low"}}),
    ),
    (
        chat({"type": "text", "text": FILE}, {"type": "file", "file": {"file_id": FILE}}),
        chat({"type": "text", "text": FILE}, {"type": "image_url", "image_url": {"url": URI}}),
    ),
    (
        responses({"type": "input_image", "file_id": FILE, "detail": "auto"}),
        responses({"type": "input_image", "image_url": URI, "detail": "auto"}),
    ),
    (
        responses({"type": "input_image", "image_url": FILE}),
        responses({"type": "input_image", "image_url": URI}),
    ),
    (
        chat({"type": "image", "source": {"type": "file", "file_id": FILE}}),
        chat(
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": "image/png",
                    "data": base64.b64encode(PNG).decode(),
                },
            }
        ),
    ),
]


@pytest.mark.parametrize(("before", "after"), CASES)
def test_an_image_takes_the_place_of_its_files_id(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert image_places(before) == {FILE: 1}
    with_images(before, {FILE: ("image/png", PNG)})
    assert before == after
    assert not image_places(before)


def test_a_file_counts_at_each_place() -> None:
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in (FILE, OTHER, FILE)]
    request = chat(*parts)
    assert list(image_places(request).items()) == [(FILE, 2), (OTHER, 1)]
    with_images(request, {FILE: ("image/png", PNG), OTHER: ("image/gif", b"GIF89a")})
    assert json.dumps(request).count("data:image/png") == 2


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": "file-1", "input": FILE},
        {"messages": [FILE, None, {"content": FILE}, {"content": [FILE, None, 7]}]},
        chat({"type": "image_url", "image_url": FILE}, {"type": "image_url"}, {"type": "file", "file": {}}),
        chat({"type": "image_url", "image_url": {"url": "https://a/file-1"}}),
        responses({"type": "input_file", "file_id": FILE}),
    ],
)
def test_what_names_no_image_is_left_alone(request_: dict[str, Any]) -> None:
    assert not image_places(request_)


def test_an_image_is_known_by_its_first_bytes() -> None:
    kinds = {
        PNG: "image/png",
        b"\xff\xd8\xff\xe0": "image/jpeg",
        b"GIF89a..": "image/gif",
        b"RIFF....WEBPVP8 ": "image/webp",
        b"BM......": "image/bmp",
        b"%PDF-1.7": None,
        b"RIFF....WAVE": None,
        b"<svg ": None,
        b"": None,
    }
    assert {head: image_type(head) for head in kinds} == kinds
