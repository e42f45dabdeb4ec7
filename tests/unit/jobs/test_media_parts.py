"""What a request brings beside text."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.media_parts import Media, media


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": list(parts)}]}


AT = "messages.1.content.0"
INNER = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "image_url", "image_url": {"url": "u"}}, Media("image", AT, "u")),
        ({"type": "image_url", "image_url": "u"}, Media("image", AT, "u")),
        ({"image_url": "u"}, Media("image", AT, "u")),
        ({"type": "file", "file": {"file_id": "f"}}, Media("image", AT, "f")),
        ({"type": "input_image", "image_url": "u", "detail": "low"}, Media("image", AT, "u")),
        ({"type": "input_image", "file_id": "f"}, Media("image", AT, "f")),
        (INNER, Media("image", AT, data="AA==", media_type="image/png")),
        ({"type": "image", "source": {"type": "url", "url": "u"}}, Media("image", AT, "u")),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, Media("image", AT, "f")),
        (
            {"type": "tool_result", "content": [INNER]},
            Media("image", f"{AT}.content.0", None, "AA==", "image/png"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            Media("audio", AT, data="AA=="),
        ),
        ({"type": "audio_url", "audio_url": {"url": "u"}}, Media("audio", AT, "u")),
        ({"type": "video_url", "video_url": {"url": "u"}}, Media("video", AT, "u")),
    ],
)
def test_every_form(part: dict[str, Any], found: Media) -> None:
    assert list(media(chat(part, {"type": "text", "text": "image_url"}))) == [found]


def test_an_item_of_responses_and_a_tools_output() -> None:
    image = {"type": "input_image", "image_url": "u"}
    items = [{"role": "user", "content": [image]}, {"type": "function_call_output", "output": [image]}]
    assert [one.param for one in media({"input": items})] == ["input.0.content.0", "input.1.output.0"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": "x", "input": "y"},
        {"messages": ["x", None], "input": [[1, 2]]},
        chat(
            "x",
            None,
            {"type": "image_url"},
            {"type": "image_url", "image_url": {"url": 3}},
            {"type": "file", "file": 1},
        ),
        chat({"type": "image", "source": "x"}, {"type": "input_audio", "input_audio": None}),
    ],
)
def test_what_brings_none(request_: dict[str, Any]) -> None:
    assert list(media(request_)) == []
