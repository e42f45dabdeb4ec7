"""Small pictures, and the parts of requests that show them."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

Size = tuple[int, int]


def picture(color: str = "red", size: Size = (80, 60), form: str = "PNG") -> bytes:
    """Return a picture of one color as a file. ``form``: Pillow's name of its format."""
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, form)
    return out.getvalue()


def base64_of(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    """Return a file as a data URI."""
    return f"data:{kind};base64,{base64_of(data)}"


def image_part(url: str) -> dict[str, Any]:
    """Return the part of a chat message that shows an image."""
    return {"type": "image_url", "image_url": {"url": url}}


def shows(*urls: str, text: str = "What is this?") -> list[dict[str, Any]]:
    """Return the messages of a chat about some images."""
    return [{"role": "user", "content": [*map(image_part, urls), {"type": "text", "text": text}]}]
