"""Answers with the members that OpenAI's specification has, and Anthropic's, for the setting ``openai_strict``. Pure.

vLLM writes null for what does not apply, also in members that the specification does not know or in which it allows no
null. Here these are left out, and required ones that are missing get the value that stands for nothing. Every other member
keeps its bytes.

The tables name, for each object, the members in which null may stand. ``tests/unit/api/test_strict.py`` compares them with
the models of OpenAI's SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from starlette.types import Message, Send

from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

_NULL = msgspec.Raw(b"null")
_DATA = b"data: {"


@dataclass(frozen=True, slots=True)
class Form:
    """What the specification says of an object.

    Attributes:
        nullable: members that may be null.
        required: members that must be there, and what they are otherwise, as JSON.
        inner: members that are objects of a known form, or lists of them. No other member is looked into.
        kinds: the form of an object by its member ``type``; one of another type has this form.
    """

    nullable: frozenset[str] = frozenset()
    required: Mapping[str, bytes] = field(default_factory=dict)
    inner: Mapping[str, Form] = field(default_factory=dict)
    kinds: Mapping[str, Form] = field(default_factory=dict)

    def __call__(self, text: bytes) -> bytes:
        """Return an object in this form; what is no object stays as it is."""
        if text[:1] == b"[":
            return _encode([msgspec.Raw(self(bytes(item))) for item in _items(text)])
        if text[:1] != b"{":
            return text
        members = _members(text)
        if self.kinds and (kind := self.kinds.get(bytes(members.get("type", _NULL)).decode().strip('"'))):
            return kind(text)
        out = {name: msgspec.Raw(default) for name, default in self.required.items()}
        kept = {}
        for name, value in members.items():
            if bytes(value) == b"null":
                if name in self.nullable:
                    kept[name] = _NULL
                elif name in out:
                    kept[name] = out[name]
                continue
            form = self.inner.get(name)
            kept[name] = value if form is None else msgspec.Raw(form(bytes(value)))
        return _encode(kept | {name: value for name, value in out.items() if name not in kept})


def _null(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, b"null")


def _form(nullable: str = "", required: Mapping[str, bytes] | None = None, **inner: Form) -> Form:
    required = required or {}
    allowed = {name for name, default in required.items() if default == b"null"}
    return Form(frozenset(nullable.split()) | allowed, required, inner)


_ANY = Form()
_TOKEN_LOGPROB = _form(required=_null("bytes"), top_logprobs=_form(required=_null("bytes")))
_CHAT_LOGPROBS = _form(required=_null("content", "refusal"), content=_TOKEN_LOGPROB, refusal=_TOKEN_LOGPROB)
_USAGE = _form(prompt_tokens_details=_ANY, completion_tokens_details=_ANY)

CHAT_ANSWER: Final = _form(
    choices=_form(
        required=_null("logprobs"),
        message=_form(required={**_null("content", "refusal"), "annotations": b"[]"}, tool_calls=_ANY),
        logprobs=_CHAT_LOGPROBS,
    ),
    usage=_USAGE,
)
CHAT_CHUNK: Final = _form(
    "usage",
    choices=_form(
        "logprobs",
        required=_null("finish_reason"),
        delta=_form("content refusal", tool_calls=_ANY),
        logprobs=_CHAT_LOGPROBS,
    ),
    usage=_USAGE,
)
COMPLETION: Final = _form(choices=_form(required=_null("logprobs")), usage=_USAGE)
COMPLETION_CHUNK: Final = _form(
    "usage", choices=_form(required=_null("logprobs", "finish_reason")), usage=_USAGE
)
EMBEDDING: Final = _form(data=_ANY, usage=_ANY)

_OUTPUT_TEXT = _form(required={"annotations": b"[]", "logprobs": b"[]"}, logprobs=_form(top_logprobs=_ANY))
_PART = Form(kinds={"output_text": _OUTPUT_TEXT})
_TOOL = _form("description strict parameters")


_ITEM = _form(content=_PART, summary=_ANY)
_NULLABLE_OF_RESPONSE = """
completed_at error incomplete_details instructions max_output_tokens max_tool_calls metadata previous_response_id
prompt_cache_key reasoning safety_identifier usage
"""
RESPONSE: Final = _form(
    "conversation prompt temperature top_p user",
    required={
        **_null(*_NULLABLE_OF_RESPONSE.split()),
        "background": b"false",
        "service_tier": b'"default"',
        "store": b"true",
        "text": b'{"format":{"type":"text"}}',
        "top_logprobs": b"0",
    },
    output=_ITEM,
    tools=_TOOL,
    reasoning=_form("effort summary"),
    text=_form(format=_form("description strict")),
    usage=_form(input_tokens_details=_ANY, output_tokens_details=_ANY),
)
RESPONSE_EVENT: Final = _form("code param", response=RESPONSE, item=_ITEM, part=_PART)

_BLOCK = Form(
    kinds={
        "text": _form(required=_null("citations")),
        "tool_use": _form(required={"caller": b'{"type":"direct"}'}),
    }
)
_USAGE_OF_MESSAGE = """
cache_creation cache_creation_input_tokens cache_read_input_tokens inference_geo output_tokens_details server_tool_use
service_tier
"""
_MESSAGE_END = "stop_reason stop_sequence stop_details container"
MESSAGE: Final = _form(
    required=_null(*_MESSAGE_END.split()),
    content=_BLOCK,
    usage=_form(required=_null(*_USAGE_OF_MESSAGE.split())),
)
MESSAGE_EVENT: Final = _form(
    message=MESSAGE, content_block=_BLOCK, delta=_form(_MESSAGE_END), usage=_form(_USAGE_OF_MESSAGE)
)

WHOLE: Final[Mapping[str, Form]] = {
    CHAT: CHAT_ANSWER,
    COMPLETIONS: COMPLETION,
    EMBEDDINGS: EMBEDDING,
    RESPONSES: RESPONSE,
    MESSAGES: MESSAGE,
}
"""The form of an endpoint's answers."""

STREAMED: Final[Mapping[str, Form]] = {
    CHAT: CHAT_CHUNK,
    COMPLETIONS: COMPLETION_CHUNK,
    RESPONSES: RESPONSE_EVENT,
    MESSAGES: MESSAGE_EVENT,
}
"""The form of the chunks or events of its streams."""


def shaped_whole(endpoint: str, body: bytes) -> bytes:
    """Return the answer of an endpoint in its form; one whose form is not known stays as it is."""
    form = WHOLE.get(endpoint)
    return body if form is None else form(body)


def shaped_stream(endpoint: str, send: Send) -> Send:
    """Return what sends a stream whose events have their form. Each body that is sent must be whole events."""
    form = STREAMED.get(endpoint)
    if form is None:
        return send

    async def send_shaped(message: Message) -> None:
        if message["type"] == "http.response.body":
            lines = message["body"].split(b"\n")
            body = b"\n".join(
                _DATA[:-1] + form(line[len(_DATA) - 1 :]) if line.startswith(_DATA) else line
                for line in lines
            )
            message = {**message, "body": body}
        await send(message)

    return send_shaped
