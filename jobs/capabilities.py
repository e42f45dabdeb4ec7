"""What a model can do as a worker serves it: one record, which admission, routing, `GET /v1/models` and the console read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Capabilities(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A model's capabilities. None, or no tasks: its engine does not say.

    Attributes:
        tasks: what the engine calls its tasks: ``generate``, ``embed``, ``classify``, ``score``, ``transcription``, ...
        images: most images in a request; 0: it takes none.
        image_tokens: most tokens of a prompt that an image takes.
        audios: most audio clips in a request; 0: it takes none.
        videos: most videos in a request; 0: it takes none.
        media_domains: hosts from which its workers fetch media by URL; ``*``: every public one, empty: none. None: unknown.
        adapters: most LoRA adapters in one batch; 0: it takes none.
        adapter_rank: largest rank of a LoRA adapter that it takes.
        adapter_of: the model that this LoRA adapter belongs to; None: it is no adapter.
        structured_output: whether it follows a JSON schema or a grammar.
        tool_parser: the engine's parser of tool calls.
        reasoning_parser: the engine's parser of reasoning.
        quantization: how its weights are quantised, such as ``awq``; None: they are not.
        speculation: its method of speculative decoding, such as ``ngram``; None: it has none.
    """

    tasks: tuple[str, ...] = ()
    images: int | None = None
    image_tokens: int | None = None
    audios: int | None = None
    videos: int | None = None
    media_domains: tuple[str, ...] | None = None
    adapters: int | None = None
    adapter_rank: int | None = None
    adapter_of: str | None = None
    structured_output: bool | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    quantization: str | None = None
    speculation: str | None = None

    def said(self) -> dict[str, Any]:
        """Return what is known, JSON-able."""
        known: dict[str, Any] = msgspec.to_builtins(self)
        return known


def read(said: Mapping[str, Any] | None) -> Capabilities:
    """Return the capabilities that a worker registered. What another version said beyond them is left out."""
    return msgspec.convert(said or {}, Capabilities)
