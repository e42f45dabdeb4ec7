"""A running job's stream: its chunks, and their encoding as one kind letter and UTF-8 text.

Token deltas are the hottest path of the system, so they are compact: plain text if possible (the api renders the OpenAI
chunk from the stream's head), and verbatim JSON frames if the engine's own parsers made them.

====  ==================  ==========================================================================
kind  class               text after the kind letter
====  ==================  ==========================================================================
h     :class:`Head`       JSON ``{"first": [frame, ...], "pre": str, "post": str}``
t     :class:`Text`       the delta's text itself; rendered as ``pre + json(text) + post``
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
    """

    first: tuple[str, ...]
    pre: str
    post: str


@dataclass(frozen=True, slots=True)
class Text:
    """Generated text of choice 0, unrendered."""

    text: str


@dataclass(frozen=True, slots=True)
class Frames:
    """Complete OpenAI chunks as JSON, none with a raw newline (JSON escapes them)."""

    frames: tuple[str, ...]


Chunk: TypeAlias = Head | Text | Frames


def encode(chunk: Chunk) -> str:
    """Return a chunk as the payload of a log entry."""
    if isinstance(chunk, Text):
        return "t" + chunk.text
    if isinstance(chunk, Frames):
        return "j" + "\n".join(chunk.frames)
    return "h" + json.dumps({"first": chunk.first, "pre": chunk.pre, "post": chunk.post}, ensure_ascii=False)


def decode(payload: str) -> Chunk:
    """Read what :func:`encode` wrote.

    Raises:
        ValueError: the payload is of another kind.
    """
    kind, text = payload[:1], payload[1:]
    if kind == "t":
        return Text(text)
    if kind == "j":
        return Frames(tuple(text.split("\n")))
    if kind == "h":
        head = json.loads(text)
        return Head(tuple(head["first"]), head["pre"], head["post"])
    raise ValueError(f"not a chunk: kind {kind!r}")


def merge(first: Chunk, second: Chunk) -> Chunk | None:
    """Join two neighbouring chunks of a stream; None: they cannot be joined."""
    if isinstance(first, Text) and isinstance(second, Text):
        return Text(first.text + second.text)
    if isinstance(first, Frames) and isinstance(second, Frames):
        return Frames(first.frames + second.frames)
    return None
