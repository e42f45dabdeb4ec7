"""The bodies and chunks that the simulated engine answers with, in OpenAI's shapes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from jobs.model import Usage
from jobs.stream_chunks import Frames, Head


class StreamShape:
    """The chunks of one simulated stream."""

    def __init__(self, ident: str, created: int, model: str, *, chat: bool) -> None:
        kind = "chat.completion.chunk" if chat else "text_completion"
        start = {"id": ident, "object": kind, "created": created, "model": model}
        self._start = json.dumps(start, separators=(",", ":"))[:-1]
        self._chat = chat

    def head(self) -> Head:
        """Return the opening chunks."""
        choice = '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'
        first = (f'{self._start},"choices":[{choice}]}}',) if self._chat else ()
        open_, close = ('"delta":{"content":', "}") if self._chat else ('"text":', "")
        return Head(
            first, f'{self._start},"choices":[{{"index":0,{open_}', f'{close},"finish_reason":null}}]}}'
        )

    def tail(self, word: str, usage: Usage | None) -> Frames:
        """Return the closing chunks; ``usage`` None: the client did not ask for it."""
        text = json.dumps(word)
        part = f'"delta":{{"content":{text}}}' if self._chat else f'"text":{text}'
        frames = [f'{self._start},"choices":[{{"index":0,{part},"finish_reason":"length"}}]}}']
        if usage is not None:
            frames.append(f'{self._start},"choices":[],"usage":{_counts(usage)}}}')
        return Frames(tuple(frames))


def _counts(usage: Usage) -> str:
    return (
        f'{{"prompt_tokens":{usage.prompt_tokens},"completion_tokens":{usage.completion_tokens},'
        f'"total_tokens":{usage.total_tokens}}}'
    )


def whole(ident: str, created: int, model: str, text: str, usage: Usage, reason: str, *, chat: bool) -> bytes:
    """Return the complete response. ``reason``: its ``finish_reason``."""
    said = json.dumps(text)
    part = f'"message":{{"role":"assistant","content":{said}}}' if chat else f'"text":{said}'
    kind = "chat.completion" if chat else "text_completion"
    return (
        f'{{"id":"{ident}","object":"{kind}","created":{created},"model":{json.dumps(model)},"choices":[{{"index":0,'
        f'{part},"logprobs":null,"finish_reason":"{reason}"}}],"usage":{_counts(usage)}}}'
    ).encode()


_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The fields that a response repeats of its request, with OpenAI's defaults."""


def response(
    ident: str, created: int, model: str, text: str, usage: Usage, asked: Mapping[str, Any]
) -> bytes:
    """Return the ``response`` object of ``/v1/responses``.

    It is ``incomplete`` where the request bounds its tokens, since the text always goes to that bound.

    Args:
        ident: the request's; ``id`` ends in it.
        created: Unix seconds.
        asked: the request's body.
    """
    bounded = asked.get("max_output_tokens") is not None
    status = "incomplete" if bounded else "completed"
    said = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {
        "id": f"msg_{ident}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [said],
    }
    given = {name: asked[name] for name in _REPEATED if asked.get(name) is not None}
    whole = {
        "id": f"resp_{ident}",
        "object": "response",
        "created_at": created,
        "completed_at": None if bounded else int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if bounded else None,
        "model": model,
        "output": [message],
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        **_REPEATED,
        **given,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        },
    }
    return json.dumps(whole, separators=(",", ":")).encode()
