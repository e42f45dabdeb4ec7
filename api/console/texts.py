"""What people read of a request and of an answer: the messages, out of the bodies of the OpenAI endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """Something that somebody said. ``role``: such as ``user``, or what it is, such as ``prompt``."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A body for a page.

    Attributes:
        raw: JSON, indented; of one that is too long, its beginning as it is.
        texts: what is said in it; empty if it is too long, or of a kind without texts.
        whole: whether ``raw`` is all of it.
    """

    raw: str
    texts: tuple[Text, ...]
    whole: bool


def request_texts(body: Any) -> Iterator[Text]:
    """Read a request: chat, messages, completion, response, embedding or score. Anything odd in it is left out."""
    if not isinstance(body, dict):
        return
    for name in ("system", "instructions"):
        yield from _said(name, body.get(name))
    messages = body.get("messages")
    if isinstance(messages, list):
        yield from _messages(messages)
    for name in ("prompt", "query", "input"):
        value = body.get(name)
        if name == "input" and isinstance(value, list) and all(isinstance(one, dict) for one in value):
            yield from _messages(value)
        else:
            yield from _said(name, value)


def answer_texts(body: Any) -> Iterator[Text]:
    """Read an answer of the same endpoints."""
    if not isinstance(body, dict):
        return
    for choice in _dicts(body.get("choices")):
        message = choice.get("message")
        if isinstance(message, dict):
            yield from _message(message)
        yield from _said("completion", choice.get("text"))
    yield from _said("assistant", body.get("content"))
    yield from _messages(body.get("output"))
    yield from _said("text", body.get("text"))


def _messages(found: Any) -> Iterator[Text]:
    for message in _dicts(found):
        yield from _message(message)


def _message(message: dict[str, Any]) -> Iterator[Text]:
    role = str(message.get("role") or message.get("type") or "message")
    for name in ("reasoning", "reasoning_content"):
        yield from _said(f"{role}, reasoning", message.get(name))
    yield from _said(role, message.get("content"))
    for call in _dicts(message.get("tool_calls")):
        yield from _said(f"{role}, tool call", json.dumps(call.get("function"), ensure_ascii=False))


def _said(role: str, value: Any) -> Iterator[Text]:
    if isinstance(value, str):
        if value:
            yield Text(role, value)
    elif isinstance(value, list):
        parts = [_part(part) for part in value]
        if any(parts):
            yield Text(role, "\n".join(part for part in parts if part))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    text = part.get("text")
    if isinstance(text, str):
        return text
    kind = part.get("type")
    return f"[{kind}]" if isinstance(kind, str) else ""


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, dict))
