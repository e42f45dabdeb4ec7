"""The text of an answer or of a stream's chunk: of OpenAI's completions and Responses, and of Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def text_of(body: Mapping[str, Any]) -> str:
    """Return an answer's text: of the first choice, or of its output; empty if it has none."""
    if "choices" in body:
        return _first_choice(body, "message")
    return "".join(_parts(body))


def delta_of(chunk: Mapping[str, Any]) -> str:
    """Return the text that a stream's chunk adds to the first choice, or to the output; empty if it adds none."""
    if "choices" in chunk:
        return _first_choice(chunk, "delta")
    delta = chunk.get("delta")
    if chunk.get("type") == "response.output_text.delta":
        return delta if isinstance(delta, str) else ""
    if chunk.get("type") == "content_block_delta" and isinstance(delta, dict):
        return str(delta.get("text") or "")
    return ""


def _first_choice(body: Mapping[str, Any], part: str) -> str:
    for choice in body.get("choices") or ():
        if choice.get("index", 0) == 0:
            text = choice.get("text") or (choice.get(part) or {}).get("content")
            return text if isinstance(text, str) else ""
    return ""


def _parts(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of Anthropic's content blocks, or of the messages in a response's output."""
    blocks = list(body.get("content") or ()) if body.get("type") == "message" else []
    for item in body.get("output") or ():
        if isinstance(item, dict) and item.get("type") == "message":
            blocks += item.get("content") or ()
    for block in blocks:
        if isinstance(block, dict) and block.get("type") in {"text", "output_text"}:
            yield str(block.get("text") or "")
