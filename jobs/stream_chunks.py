"""What an engine says while it runs a job, and how it is written down: one kind letter and UTF-8 text.

Token deltas are the hottest path of the system, so they travel compactly: plain text where that suffices (the api
renders the OpenAI chunk from the stream's head), verbatim JSON frames where the engine's own parsers were needed.

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
    """How to render the :class:`Text` deltas of this stream.

    Attributes:
        first: complete JSON frames that precede all others (for chat, the chunk with the role).
        pre: what stands before the JSON string of the delta's text.
        post: what stands after it.
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
    """Write a chunk as one log entry's payload."""
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
    msg = f"not a chunk: kind {kind!r}"
    raise ValueError(msg)


def merge(first: Chunk, second: Chunk) -> Chunk | None:
    """Join two neighbouring chunks of one stream into one, or return None where they cannot be joined."""
    if isinstance(first, Text) and isinstance(second, Text):
        return Text(first.text + second.text)
    if isinstance(first, Frames) and isinstance(second, Frames):
        return Frames(first.frames + second.frames)
    return None
