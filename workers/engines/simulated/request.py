"""The fields of a request that the simulated engine reads; it ignores the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from jobs.endpoints import ENDPOINTS, MESSAGES, RESPONSES

_EMPTY = msgspec.Raw(b"")
_NOTHING = frozenset({b"", b"null", b"[]"})


class StreamOptions(msgspec.Struct):
    """How a stream ends."""

    include_usage: bool = False


class Body(msgspec.Struct):
    """A request's body."""

    model: str | None = None
    messages: msgspec.Raw = _EMPTY
    prompt: msgspec.Raw = _EMPTY
    input: msgspec.Raw = _EMPTY
    instructions: msgspec.Raw = _EMPTY
    system: msgspec.Raw = _EMPTY
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    stream_options: StreamOptions | None = None
    simulate: str | None = None

    def prompt_of(self, endpoint: str) -> bytes:
        """Return the prompt of a generating endpoint, as JSON; empty if there is none."""
        prompt = bytes(getattr(self, ENDPOINTS[endpoint].prompt_fields[0]))
        if prompt in _NOTHING:
            return b""
        before = {RESPONSES: self.instructions, MESSAGES: self.system}.get(endpoint, _EMPTY)
        return bytes(before) + prompt

    def asked(self, endpoint: str) -> int | None:
        """Return the limit on output tokens; None: the engine's own."""
        if endpoint == RESPONSES:
            return self.max_output_tokens
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


read_body = msgspec.json.Decoder(Body).decode
"""Reads one. Raises ``msgspec.DecodeError``."""


def token_count(prompt: bytes) -> int:
    """Return how many tokens it makes of a prompt, as JSON."""
    return max(1, len(prompt) // 4)


def inputs_of(given: Any) -> list[Any]:
    """Return the inputs of an embeddings request."""
    return given if isinstance(given, list) and not isinstance(given[0], int) else [given]
