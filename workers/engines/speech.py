"""Audio requests: the form that an engine's server takes, and answers that are text. Pure.

A job's result is JSON in any case. An answer that is plain text (``text``, ``srt``, ``vtt``) is stored as a JSON string,
which the api shows as text.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from workers.engines.base import EngineRequest, Upload
from workers.engines.base import Final as End
from workers.engines.full_stream import whole

TEXT: Final = "text"
SUBTITLES: Final = {"srt": ("", ","), "vtt": ("WEBVTT\n\n", ".")}
"""Formats of subtitles, with how a file begins and what parts seconds from their fractions."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Segment(msgspec.Struct):
    start: float
    end: float
    text: str


class _Spoken(msgspec.Struct):
    text: str = ""
    segments: list[_Segment] | None = None


_spoken = msgspec.json.Decoder(_Spoken).decode


@dataclass(frozen=True, slots=True)
class Form:
    """A form, as a body with the type of its content."""

    content_type: str
    body: bytes


def form_of(fields: Mapping[str, Any], upload: Upload) -> Form:
    """Write fields and a file as ``multipart/form-data`` (RFC 7578).

    Args:
        fields: of the job's body, without ``file``; a list becomes several fields of one name.
    """
    boundary = secrets.token_hex(16)
    name = upload.filename.replace("\\", "_").replace('"', "_").replace("\r", "_").replace("\n", "_")
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{_escaped(key)}"\r\n\r\n{value}\r\n'.encode()
        for key, value in _flat(fields)
    ]
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    )
    body = b"".join([*parts, head.encode(), upload.data, f"\r\n--{boundary}--\r\n".encode()])
    return Form(f"multipart/form-data; boundary={boundary}", body)


def _escaped(name: str) -> str:
    """Write a field's name as browsers do (WHATWG HTML, multipart/form-data), so that it makes no field of its own."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _flat(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in fields.items():
        if value is None or key == "file":
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                yield key, one
            else:
                yield key, _encode(one).decode()


def form_for(request: EngineRequest, upload: Upload) -> tuple[Form, object]:
    """Return the form that a server gets for a request, and the format of answer that the request asks for."""
    try:
        fields = _decode(request.body)
    except msgspec.DecodeError:
        fields = {}
    fields["stream"] = request.stream
    return form_of(fields, upload), fields.get("response_format")


def spoken(status: int, answer: bytes, form: object) -> End:
    """Make the end of a run from a server's whole answer: JSON, or the text that was asked for."""
    if status == 200 and (form == TEXT or form in SUBTITLES):
        try:
            _spoken(answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return End(status, _encode(answer.decode(errors="replace")), None)
    return text_answer(_in_tokens(whole(status, answer)), form)


def _in_tokens(end: End) -> End:
    """Return an end without usage if that counts seconds: it says nothing of tokens."""
    return replace(end, usage=None) if end.usage is not None and not end.usage.total_tokens else end


def text_answer(end: End, form: object) -> End:
    """Return an engine's answer of JSON as the text that was asked for; any other as it is.

    Args:
        form: the ``response_format`` of the request.
    """
    if end.status != 200 or (form != TEXT and form not in SUBTITLES):
        return end
    try:
        said = _spoken(end.body)
    except msgspec.DecodeError:  # it is text already
        return end
    text = said.text if form == TEXT else _subtitles(str(form), said.segments or [])
    return replace(end, body=_encode(text))


def _subtitles(form: str, segments: list[_Segment]) -> str:
    head, point = SUBTITLES[form]
    cues = [
        f"{number}\n{_stamp(one.start, point)} --> {_stamp(one.end, point)}\n{one.text.strip()}\n\n"
        for number, one in enumerate(segments, 1)
    ]
    return head + "".join(cues)


def _stamp(seconds: float, point: str) -> str:
    ms = round(max(0.0, seconds) * 1000)
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"


def streamed_answer(end: End) -> End:
    """Return the answer that the chunks of a stream make: they are put together as a conversation's are."""
    if end.status != 200:
        return end
    text = "".join(choice["message"].get("content") or "" for choice in _decode(end.body)["choices"])
    return replace(end, body=_encode({"text": text}))
