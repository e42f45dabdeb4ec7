"""Images, audio and video at the edge: what is refused before anything is queued."""

from __future__ import annotations

from typing import Any

import pytest

from api.admission.media import _PIECE, NOTHING, Brought, check_media
from api.admission.media_rights import check_taken, tokens_of, usual_tokens
from api.http.errors import ApiError, codes_of
from api.settings import ApiSettings
from broker.models import Model
from jobs.capabilities import Capabilities
from tests.pictures import base64_of, data_uri, image_part, picture

AT = "messages.0.content.0"
PNG = picture()
JPEG = picture(form="JPEG")
SETTINGS = ApiSettings(
    image_max_bytes=100_000, image_max_pixels=1_000_000, request_images_max=3, audio_max_bytes=1024
)


def says(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def anthropic(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": base64_of(data)}}


def refused(call: Any, *args: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*args)
    assert caught.value.status == 400
    assert caught.value.code in codes_of(400)
    return caught.value


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (image_part("data:image/png;base64,"), "empty_image_file"),
        (image_part("data:image/png;base64,A"), "invalid_base64_image"),
        (image_part(data_uri(PNG)[:-1] + "!"), "invalid_base64_image"),
        (image_part(data_uri(PNG) + "\n"), "invalid_base64_image"),
        (image_part("data:image/png;base64,QUJD=AAA"), "invalid_base64_image"),
        (image_part(data_uri(bytes(3)) + "=="), "invalid_base64_image"),
        (image_part("data:image/png;base64,\N{EURO SIGN}AAA"), "invalid_base64_image"),
        (image_part("data:image/png," + "x" * 9), "invalid_image_url"),
        (image_part("data:image/png;base64"), "invalid_image_url"),
        (image_part("ftp://example.org/a.png"), "invalid_image_url"),
        (image_part("photo.png"), "invalid_image_url"),
        (image_part("http://[::1"), "invalid_image_url"),
        (image_part("https:///a.png"), "invalid_image_url"),
        (image_part(data_uri(b"%PDF-1.7 and more")), "invalid_image_format"),
        (image_part(data_uri(JPEG, "image/png")), "invalid_image_format"),
        (image_part(data_uri(PNG, "image/tiff")), "unsupported_image_media_type"),
        (image_part(data_uri(PNG, "text/html")), "unsupported_image_media_type"),
        (image_part(data_uri(PNG[:20])), "image_parse_error"),
        (image_part(data_uri(picture(size=(2001, 500)))), "image_too_large"),
        (image_part(data_uri(PNG + bytes(100_001 - len(PNG)))), "image_file_too_large"),
        (anthropic(JPEG), "invalid_image_format"),
        (anthropic(b"nothing"), "invalid_image_format"),
        ({"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}, "invalid_audio"),
        ({"type": "input_audio", "input_audio": {"data": base64_of(bytes(1025))}}, "invalid_audio"),
        ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,!"}}, "invalid_value"),
    ],
)
def test_what_no_model_can_read_is_refused(part: dict[str, Any], code: str) -> None:
    error = refused(check_media, SETTINGS, says(part))
    assert (error.code, error.param) == (code, AT)
    assert AT in error.message


@pytest.mark.parametrize(
    "part",
    [
        image_part(data_uri(PNG)),
        image_part(data_uri(JPEG, "image/jpg")),
        image_part(data_uri(JPEG, "IMAGE/JPEG;charset=utf-8")),
        image_part(data_uri(PNG, "")),
        image_part("DATA:application/octet-stream;base64," + base64_of(PNG)),
        image_part(data_uri(PNG + bytes(100_000 - len(PNG)))),
        image_part(data_uri(picture(size=(1000, 1000)))),
        anthropic(PNG),
        anthropic(picture(form="WEBP"), "image/webp"),
    ],
)
def test_what_is_an_image_passes(part: dict[str, Any]) -> None:
    brought = check_media(SETTINGS, says(part))
    assert (brought.counts, brought.first, brought.inline) == ({"image": 1}, {"image": AT}, True)
    assert brought.characters > 0


def test_a_large_image_is_read_in_pieces() -> None:
    """Its size stands behind more than the first piece, and its last piece is base64, too."""
    settings = ApiSettings()
    long = JPEG[:2] + (b"\xff\xe2\xff\xff" + bytes(65_533)) * 20 + JPEG[2:] + bytes(1_000_000)
    check_media(settings, says(image_part(data_uri(long, "image/jpeg"))))
    uri = data_uri(PNG + bytes(3_000_000 - len(PNG)))
    check_media(settings, says(image_part(uri)))
    for broken in (uri[:-1] + "?", uri[:2_000_000] + "=" + uri[2_000_001:]):
        assert refused(check_media, settings, says(image_part(broken))).code == "invalid_base64_image"


def test_padding_ends_the_data_at_the_end_of_a_piece_too() -> None:
    whole = base64_of(bytes(3 * _PIECE // 4 - 1))
    assert (len(whole), whole[-2:]) == (_PIECE, "A=")
    settings = ApiSettings()
    clip: dict[str, Any] = {"type": "input_audio", "input_audio": {"data": whole, "format": "wav"}}
    check_media(settings, says(clip))
    clip["input_audio"]["data"] += "AAAA"
    assert refused(check_media, settings, says(clip)).code == "invalid_audio"


def test_addresses_and_files_are_noted_and_not_fetched() -> None:
    parts = [
        image_part("https://Example.org/a.png"),
        image_part("file:///tmp/a.png"),
        image_part("file-" + "0" * 32),
    ]
    assert check_media(SETTINGS, says(*parts)) == Brought(
        {"image": AT}, {"image": 3}, hosts=((AT, "example.org"),), inline=False, files=True
    )
    assert check_media(SETTINGS, says({"type": "text", "text": "data:"})) is NOTHING


def test_too_many() -> None:
    error = refused(check_media, SETTINGS, says(*[image_part(data_uri(PNG))] * 4))
    assert (error.code, error.param) == ("too_many_images", "messages.0.content.3")


SEES = Model(
    "sees", capabilities=Capabilities(images=2, image_tokens=50, audios=0, videos=0, media_domains=())
)
UNKNOWN = Model("unknown")
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize(
    ("model", "parts", "code"),
    [
        (SEES, [image_part(data_uri(PNG))] * 3, "too_many_images"),
        (SEES, [image_part("http://example.org/a.png")], "invalid_image_url"),
        (
            Model("some", capabilities=Capabilities(media_domains=("example.com",))),
            [image_part("http://example.org/a.png")],
            "invalid_image_url",
        ),
    ],
)
def test_what_the_model_does_not_take_is_refused(model: Model, parts: list[Any], code: str) -> None:
    error = refused(check_taken, model, check_media(SETTINGS, says(*parts)))
    assert error.code == code
    assert error.param is not None
    assert error.param.startswith("messages.0.content.")


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (SEES, [image_part(data_uri(PNG))] * 2),
        (UNKNOWN, [image_part("http://example.org/a.png"), AUDIO]),
        (
            Model("all", capabilities=Capabilities(media_domains=("*",))),
            [image_part("http://example.org/a.png")],
        ),
        (
            Model("one", capabilities=Capabilities(media_domains=("example.org",))),
            [image_part("http://EXAMPLE.org/a")],
        ),
        (SEES, [{"type": "text", "text": "x"}]),
    ],
)
def test_what_it_takes_or_does_not_say_passes(model: Model, parts: list[Any]) -> None:
    check_taken(model, check_media(SETTINGS, says(*parts)))


def test_an_images_base64_costs_no_tokens() -> None:
    """A tenant's turn cost two million tokens for a picture of nine megabytes."""
    body = says(image_part(data_uri(PNG + bytes(90_000))), {"type": "text", "text": "x" * 400})
    brought = check_media(SETTINGS, body)
    size = brought.characters + 500
    assert usual_tokens(SEES, brought, size) == 500 // 4 + 50
    assert usual_tokens(UNKNOWN, brought, size) == 500 // 4 + 1024
    assert usual_tokens(SEES, NOTHING, size) is None
    assert (tokens_of(SEES, brought), tokens_of(UNKNOWN, brought), tokens_of(UNKNOWN, NOTHING)) == (
        50,
        None,
        0,
    )
