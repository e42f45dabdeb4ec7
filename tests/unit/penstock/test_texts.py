"""The text of answers and of chunks, whichever endpoint they come from."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.texts import delta_of, text_of


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"index": 0, "message": {"content": "hi"}}]}, "hi"),
        ({"choices": [{"index": 1, "text": "no"}, {"index": 0, "text": "hi"}]}, "hi"),
        ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, ""),
        ({"choices": []}, ""),
        (
            {
                "type": "message",
                "content": [
                    {"type": "text", "text": "h"},
                    {"type": "tool_use"},
                    {"type": "text", "text": "i"},
                ],
            },
            "hi",
        ),
        (
            {
                "object": "response",
                "output": [
                    {"type": "reasoning"},
                    {
                        "type": "message",
                        "content": [{"type": "output_text", "text": "hi"}, {"type": "refusal"}],
                    },
                ],
            },
            "hi",
        ),
        ({"data": [{"embedding": [1.0]}]}, ""),
        ({"prompt": "hi"}, ""),
        ({}, ""),
    ],
)
def test_text_of_an_answer(body: dict[str, Any], text: str) -> None:
    assert text_of(body) == text


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ({"choices": [{"delta": {"content": "hi"}}]}, "hi"),
        ({"choices": [{"delta": {"role": "assistant"}}]}, ""),
        ({"type": "response.output_text.delta", "delta": "hi"}, "hi"),
        ({"type": "response.function_call_arguments.delta", "delta": "{}"}, ""),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}, "hi"),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}, ""),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, ""),
        ({"type": "message_start", "message": {}}, ""),
    ],
)
def test_text_that_a_chunk_adds(chunk: dict[str, Any], text: str) -> None:
    assert delta_of(chunk) == text
