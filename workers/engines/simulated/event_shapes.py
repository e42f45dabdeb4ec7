"""The shapes of the simulated engine's Responses and Messages: vLLM's, event by event."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.model import Usage
from jobs.stream_chunks import Frames

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


class Response:
    """An answer of ``/v1/responses``; see :class:`workers.engines.simulated.shapes.Shape`.

    It is ``incomplete`` where the request bounds its tokens, since the text always goes to that bound.

    Args:
        ident: the request's; the answer's ``id`` ends in it.
        created: Unix seconds.
        asked: the request's body.
    """

    def __init__(self, ident: str, created: int, model: str, asked: Mapping[str, Any]) -> None:
        self._ident, self._created, self._model, self._asked = ident, created, model, asked
        self._place = {"item_id": f"msg_{ident}", "output_index": 0, "content_index": 0}
        self._number = 0

    def head(self) -> Frames:
        """See the Protocol."""
        begun = {"response": self._response("in_progress", [], None)}
        item = {"output_index": 0, "item": self._item("in_progress", [])}
        return self._frames(
            ("created", begun),
            ("in_progress", begun),
            ("output_item.added", item),
            ("content_part.added", {**self._place, "part": _part("")}),
        )

    def text(self, word: str) -> Frames:
        """See the Protocol."""
        return self._frames(("output_text.delta", {**self._place, "delta": word, "logprobs": []}))

    def tail(self, words: Sequence[str], usage: Usage) -> Frames:
        """See the Protocol."""
        text = "".join(words)
        response = self._ended(text, usage, "length")
        return self._frames(
            ("output_text.delta", {**self._place, "delta": words[-1], "logprobs": []}),
            ("output_text.done", {**self._place, "text": text, "logprobs": []}),
            ("content_part.done", {**self._place, "part": _part(text)}),
            ("output_item.done", {"output_index": 0, "item": response["output"][0]}),
            ("completed", {"response": response}),  # as vLLM says it of one that is incomplete, too
        )

    def whole(self, text: str, usage: Usage, reason: str) -> bytes:
        """See the Protocol."""
        return _dump(self._ended(text, usage, reason)).encode()

    def _ended(self, text: str, usage: Usage, reason: str) -> dict[str, Any]:
        bounded = self._asked.get("max_output_tokens") is not None
        status = "cancelled" if reason == "abort" else "incomplete" if bounded else "completed"
        item = self._item("completed" if status == "completed" else "incomplete", [_part(text)])
        counts = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        }
        return self._response(status, [item], counts)

    def _response(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        given = {name: self._asked[name] for name in _REPEATED if self._asked.get(name) is not None}
        return {
            "id": f"resp_{self._ident}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._model,
            "output": output,
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            **_REPEATED,
            **given,
            "usage": usage,
        }

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        ident = self._place["item_id"]
        return {"id": ident, "type": "message", "status": status, "role": "assistant", "content": content}

    def _frames(self, *events: tuple[str, dict[str, Any]]) -> Frames:
        frames = []
        for kind, event in events:
            frames.append(_dump({**event, "sequence_number": self._number, "type": f"response.{kind}"}))
            self._number += 1
        return Frames(tuple(frames))


class Message:
    """An answer of ``/v1/messages``; see :class:`workers.engines.simulated.shapes.Shape`."""

    def __init__(self, ident: str, model: str, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._start = {"id": ident, "type": "message", "role": "assistant"}
        self._model = model

    def head(self) -> Frames:
        """See the Protocol."""
        none = {"stop_reason": None, "stop_sequence": None, "usage": _usage(self._prompt_tokens, 0)}
        message: dict[str, Any] = {**self._start, "content": [], "model": self._model, **none}
        block = {"type": "text", "text": ""}
        return _events(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "content_block": block, "index": 0},
        )

    def text(self, word: str) -> Frames:
        """See the Protocol."""
        return _events(_word(word))

    def tail(self, words: Sequence[str], usage: Usage) -> Frames:
        """See the Protocol."""
        end = {"stop_reason": "max_tokens", "stop_sequence": None}
        counts = _usage(usage.prompt_tokens, usage.completion_tokens)
        return _events(
            _word(words[-1]),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": counts},
            {"type": "message_stop"},
        )

    def whole(self, text: str, usage: Usage, reason: str) -> bytes:
        """See the Protocol."""
        content = [{"type": "text", "text": text}]
        message = {
            **self._start,
            "content": content,
            "model": self._model,
            "stop_reason": "end_turn" if reason == "abort" else "max_tokens",  # as vLLM has it
            "stop_sequence": None,
            "usage": _usage(usage.prompt_tokens, usage.completion_tokens),
        }
        return _dump(message).encode()


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": completion}


def _word(word: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "delta": {"type": "text_delta", "text": word}, "index": 0}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(*events: dict[str, Any]) -> Frames:
    return Frames(tuple(_dump(event) for event in events))


def _dump(tree: dict[str, Any]) -> str:
    return json.dumps(tree, separators=(",", ":"))
