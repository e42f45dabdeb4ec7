"""The shapes of the simulated engine's answers: OpenAI's chunks, and embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from jobs.model import Usage
from jobs.stream_chunks import Chunk, Frames, Head, Text


class Shape(Protocol):
    """How one request is answered, streamed or whole."""

    def head(self) -> Chunk:
        """Return what opens the stream."""

    def text(self, word: str) -> Chunk:
        """Return the chunk of a word."""

    def tail(self, words: Sequence[str], usage: Usage) -> Chunk:
        """Return what closes the stream of these words. The last one is in it."""

    def whole(self, text: str, usage: Usage, reason: str) -> bytes:
        """Return the complete answer. ``reason``: ``length``, or ``abort``."""


class Chunks:
    """OpenAI's completions.

    Args:
        with_usage: the client asked for a chunk with the counts.
    """

    def __init__(self, ident: str, created: int, model: str, *, chat: bool, with_usage: bool) -> None:
        self._top = ident, created, model
        self._chat, self._with_usage = chat, with_usage

    @cached_property
    def _start(self) -> str:
        """The beginning of each chunk of a stream."""
        ident, created, model = self._top
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        start = {"id": ident, "object": kind, "created": created, "model": model}
        return json.dumps(start, separators=(",", ":"))[:-1]

    def head(self) -> Head:
        """See the Protocol."""
        choice = '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'
        first = (f'{self._start},"choices":[{choice}]}}',) if self._chat else ()
        open_, close = ('"delta":{"content":', "}") if self._chat else ('"text":', "")
        return Head(
            first, f'{self._start},"choices":[{{"index":0,{open_}', f'{close},"finish_reason":null}}]}}'
        )

    def text(self, word: str) -> Text:
        """See the Protocol."""
        return Text(word)

    def tail(self, words: Sequence[str], usage: Usage) -> Frames:
        """See the Protocol."""
        text = json.dumps(words[-1])
        part = f'"delta":{{"content":{text}}}' if self._chat else f'"text":{text}'
        frames = [f'{self._start},"choices":[{{"index":0,{part},"finish_reason":"length"}}]}}']
        if self._with_usage:
            frames.append(f'{self._start},"choices":[],"usage":{_counts(usage)}}}')
        return Frames(tuple(frames))

    def whole(self, text: str, usage: Usage, reason: str) -> bytes:
        """See the Protocol."""
        said, (ident, created, model) = json.dumps(text), self._top
        part = f'"message":{{"role":"assistant","content":{said}}}' if self._chat else f'"text":{said}'
        kind = "chat.completion" if self._chat else "text_completion"
        return (
            f'{{"id":"{ident}","object":"{kind}","created":{created},"model":{json.dumps(model)},"choices":[{{"index":0,'
            f'{part},"logprobs":null,"finish_reason":"{reason}"}}],"usage":{_counts(usage)}}}'
        ).encode()


def _counts(usage: Usage) -> str:
    return (
        f'{{"prompt_tokens":{usage.prompt_tokens},"completion_tokens":{usage.completion_tokens},'
        f'"total_tokens":{usage.total_tokens}}}'
    )
