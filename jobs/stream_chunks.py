"""A running job's stream: its chunks, and their encoding as one kind letter and UTF-8 text.

Token deltas are the hottest path of the system, so they are compact: plain text if possible (the api renders the OpenAI
chunk from the stream's head), and verbatim JSON frames if the engine's own parsers made them.

====  ==================  ==========================================================================
kind  class               text after the kind letter
====  ==================  ==========================================================================
h     :class:`Head`       JSON ``{"first": [frame, ...], "pre": str, "post": str, "reasoning": [str, str]}``
t     :class:`Text`       the delta's text itself; rendered as ``pre + json(text) + post``
r     :class:`Text`       the same of a model's reasoning; the head's ``reasoning`` has both halves of its frame
j     :class:`Frames`     one or more complete JSON frames, separated by newlines
s     state               JSON ``{"state": ..., "attempt": ...}``; made by the scripts (running, queued)
e     end                 JSON header of the terminal state; made by the finishing scripts
====  ==================  ==========================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Head:
    """The frame around the :class:`Text` deltas of a stream.

    Attributes:
        first: complete JSON frames that precede all others (for chat, the chunk with the role).
        pre: the text before the JSON string of a delta.
        post: the text after it.
        reasoning: the same two of a delta of the model's reasoning; None: its stream has none.
    """

    first: tuple[str, ...]
    pre: str
    post: str
    reasoning: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Generated text of choice 0, unrendered.

    Attributes:
        text: the delta.
        reasoning: its channel: the model's reasoning, or else its answer.
    """

    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Frames:
    """Complete OpenAI chunks as JSON, none with a raw newline (JSON escapes them)."""

    frames: tuple[str, ...]


Chunk: TypeAlias = Head | Text | Frames

TEXT_KINDS = "tr"
"""The kind letters of texts."""


def encode(chunk: Chunk) -> str:
    """Return a chunk as the payload of a log entry."""
    if isinstance(chunk, Text):
        return ("r" if chunk.reasoning else "t") + chunk.text
    if isinstance(chunk, Frames):
        return "j" + "\n".join(chunk.frames)
    head = {"first": chunk.first, "pre": chunk.pre, "post": chunk.post}
    if chunk.reasoning is not None:
        head["reasoning"] = chunk.reasoning
    return "h" + json.dumps(head, ensure_ascii=False)


def decode(payload: str) -> Chunk:
    """Read what :func:`encode` wrote.

    Raises:
        ValueError: the payload is of another kind.
    """
    kind, text = payload[:1], payload[1:]
    if kind and kind in TEXT_KINDS:
        return Text(text, kind == "r")
    if kind == "j":
        return Frames(tuple(text.split("\n")))
    if kind == "h":
        head = json.loads(text)
        reasoning = head.get("reasoning")
        return Head(
            tuple(head["first"]),
            head["pre"],
            head["post"],
            None if reasoning is None else (reasoning[0], reasoning[1]),
        )
    raise ValueError(f"not a chunk: kind {kind!r}")


def merge(first: Chunk, second: Chunk) -> Chunk | None:
    """Join two neighbouring chunks of a stream; None: they cannot be joined."""
    if isinstance(first, Text) and isinstance(second, Text) and first.reasoning is second.reasoning:
        return Text(first.text + second.text, first.reasoning)
    if isinstance(first, Frames) and isinstance(second, Frames):
        return Frames(first.frames + second.frames)
    return None
