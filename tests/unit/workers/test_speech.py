"""Audio requests: forms as a server reads them, and answers that are text."""

from __future__ import annotations

import json

import pytest
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from workers.engines.base import EngineRequest, Final, Upload
from workers.engines.speech import form_for, form_of, spoken, streamed_answer, text_answer

SEGMENTS = {
    "text": " one two",
    "segments": [
        {"start": 0, "end": 1.25, "text": " one"},
        {"start": 3661.5, "end": 3662, "text": "two "},
    ],
}


def end(body: object, status: int = 200) -> Final:
    return Final(status, json.dumps(body).encode(), None)


@pytest.mark.asyncio
async def test_a_server_reads_the_form_that_was_written() -> None:
    data = bytes(range(256)) + b"\r\n--x"
    upload = Upload('a "b"\r\nx: y.wav', data)
    form = form_of(
        {
            "model": "m",
            "file": "sha256:1",
            "temperature": 0.5,
            "stream": True,
            "language": None,
            "g[]": ["a", "b"],
            'model"; x="\r\n': "other",
        },
        upload,
    )
    kind, options = parse_options_header(form.content_type.encode())
    assert kind == b"multipart/form-data"
    assert options[b"boundary"] not in data

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": form.body, "more_body": False}

    scope = {"type": "http", "headers": [(b"content-type", form.content_type.encode())]}
    read = await Request(scope, receive).form()
    file = read["file"]
    assert await file.read() == data
    assert "\n" not in file.filename
    texts = [(name, value) for name, value in read.multi_items() if name != "file"]
    await read.close()
    assert texts == [
        *(("model", "m"), ("temperature", "0.5"), ("stream", "true"), ("g[]", "a"), ("g[]", "b")),
        ("model%22; x=%22%0D%0A", "other"),  # as browsers write it: no field of its own
    ]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("text", " one two"),
        ("srt", "1\n00:00:00,000 --> 00:00:01,250\none\n\n2\n01:01:01,500 --> 01:01:02,000\ntwo\n\n"),
        (
            "vtt",
            "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.250\none\n\n2\n01:01:01.500 --> 01:01:02.000\ntwo\n\n",
        ),
    ],
)
def test_a_text_is_stored_as_a_string(form: str, text: str) -> None:
    assert json.loads(text_answer(end(SEGMENTS), form).body) == text


@pytest.mark.parametrize("form", [None, "json", "verbose_json", 7])
def test_an_object_stays_one(form: object) -> None:
    assert text_answer(end(SEGMENTS), form) == end(SEGMENTS)


def test_a_refusal_stays_one() -> None:
    refusal = end({"error": {"message": "no"}}, 400)
    assert text_answer(refusal, "text") == refusal
    refused = spoken(400, refusal.body, "text")
    assert (refused.status, json.loads(refused.body)["error"]["message"]) == (400, "no")


def test_a_servers_text_is_kept_and_what_should_be_json_is_not() -> None:
    assert json.loads(spoken(200, b"1\n00:00 -->\n", "srt").body) == "1\n00:00 -->\n"
    assert json.loads(spoken(200, b"\xff", "text").body) == "\ufffd"
    assert spoken(200, b"<html>", "json").status == 502
    assert json.loads(spoken(200, b'{"text": "a"}', "text").body) == "a"
    seconds = {"text": "a", "usage": {"type": "duration", "seconds": 2}}
    assert spoken(200, json.dumps(seconds).encode(), "json").usage is None  # they are no tokens


def test_the_answer_of_a_stream_is_its_text() -> None:
    whole = {"choices": [{"message": {"role": "assistant", "content": "a b"}}]}
    assert json.loads(streamed_answer(end(whole)).body) == {"text": "a b"}
    assert streamed_answer(end({"error": 1}, 500)).status == 500


def test_a_form_says_whether_it_is_streamed() -> None:
    request = EngineRequest("job_1", "/v1/audio/transcriptions", b'{"stream":"true","response_format":"srt"}')
    form, asked = form_for(request, Upload("a", b"x"))
    assert asked == "srt"
    assert b'name="stream"\r\n\r\nfalse\r\n' in form.body
