"""What a request asks of a model, against what the model can do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jobs.abilities import lack
from jobs.capabilities import Capabilities
from jobs.endpoints import CHAT, COMPLETIONS, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES, SCORE, TOKENIZE
from jobs.speculation import limit_of

TEXT_ONLY = Capabilities(tasks=("generate",), images=0, audios=0, videos=0, structured_output=True)
ABLE = Capabilities(
    tasks=("generate",), images=1, audios=1, videos=1, tool_parser="hermes", reasoning_parser="qwen3"
)
TOOLS = [{"type": "function", "function": {"name": "gate"}}]
URL = {"url": "data:image/png;base64,AAAA"}


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


RESULT = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": {}}]}
LACKING: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, chat({"type": "text", "text": "x"}, {"type": "image_url", "image_url": URL}), "messages"),
    (CHAT, chat({"image_url": URL}), "messages"),
    (CHAT, chat({"type": "file", "file": {"file_id": "file-1"}}), "messages"),
    (CHAT, chat({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}), "messages"),
    (CHAT, chat({"type": "video_url", "video_url": URL}), "messages"),
    (TOKENIZE, chat({"type": "image_embeds", "image_embeds": "AA"}), "messages"),
    (EMBEDDINGS, chat({"type": "image_url", "image_url": URL}), "messages"),
    (MESSAGES, chat({"type": "image", "source": {}}), "messages"),
    (MESSAGES, chat(RESULT), "messages"),
    (COUNT_TOKENS, chat({"type": "image", "source": {}}), "messages"),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input",
    ),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, "input"),
    (SCORE, {"text_1": "x", "text_2": {"content": [{"type": "image_url", "image_url": URL}]}}, "text_2"),
    (CHAT, {**chat(), "tools": TOOLS}, "tools"),
    (CHAT, {**chat(), "tools": TOOLS, "tool_choice": "required"}, "tools"),
    (MESSAGES, {**chat(), "tools": [{"name": "gate"}], "tool_choice": {"type": "auto"}}, "tools"),
    (RESPONSES, {"input": "x", "tools": [{"type": "function", "name": "gate"}]}, "tools"),
    (CHAT, {**chat(), "thinking_token_budget": 5}, "thinking_token_budget"),
]


@pytest.mark.parametrize(("endpoint", "request_", "param"), LACKING)
def test_what_a_model_lacks_is_found_and_nothing_is_said_of_one_that_has_it(
    endpoint: str, request_: dict[str, Any], param: str
) -> None:
    found = lack(TEXT_ONLY, endpoint, request_)
    assert found is not None
    assert found.param == param
    assert lack(ABLE, endpoint, request_) is None
    assert lack(Capabilities(), endpoint, request_) is None, "its engine does not say what it can do"


FORMS = [
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}),
    (COMPLETIONS, {"response_format": {"type": "json_object"}}),
    (COMPLETIONS, {"structured_outputs": {"regex": "a"}}),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": {}}}}),
    (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
]


@pytest.mark.parametrize(("endpoint", "request_"), FORMS)
def test_structured_output_is_refused_by_a_model_without(endpoint: str, request_: dict[str, Any]) -> None:
    without = msgspec.structs.replace(TEXT_ONLY, structured_output=False)
    found = lack(without, endpoint, request_)
    assert found is not None
    assert found.param == next(iter(request_))
    assert lack(TEXT_ONLY, endpoint, request_) is None


PLAIN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "x"}], "reasoning_effort": "high"}),
    (CHAT, {**chat({"type": "text", "text": "x"}), "tools": TOOLS, "tool_choice": "none"}),
    (CHAT, {**chat(), "tools": []}),
    (CHAT, {"messages": 5}),
    (CHAT, {"messages": [None, {"content": [5, {"type": 5}, {"type": "unknown"}]}]}),
    (CHAT, chat({"type": "file", "file": {"file_data": "x"}})),
    (CHAT, {**chat(), "response_format": {"type": "text"}, "structured_outputs": None}),
    (RESPONSES, {"input": "x", "text": {"format": {"type": "text"}}, "text_": 5}),
    (RESPONSES, {"input": "x", "text": "odd"}),
    (MESSAGES, {**chat(), "tools": [{"name": "x"}], "tool_choice": {"type": "none"}}),
    (EMBEDDINGS, {"input": ["x", [1, 2]], "tools": TOOLS}),
]


@pytest.mark.parametrize(("endpoint", "request_"), PLAIN)
def test_what_every_model_takes_is_not_refused(endpoint: str, request_: dict[str, Any]) -> None:
    assert lack(TEXT_ONLY, endpoint, request_) is None


def test_a_list_that_is_deeper_than_any_message_ends() -> None:
    part: dict[str, Any] = {"type": "image_url"}
    for _ in range(100):
        part = {"type": "tool_result", "content": [part]}
    assert lack(TEXT_ONLY, MESSAGES, chat(part)) is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"top_k": 5, "top_p": 0.9, "allowed_token_ids": [1]}, None),
        ({"min_p": 0.1}, "min_p"),
        ({"min_p": 0.1, "temperature": 0.5}, "min_p"),
        ({"min_p": "0.1"}, "min_p"),
        ({"min_p": 0.1, "temperature": 0}, None),
        ({"min_p": 0.0, "logit_bias": {}}, None),
        ({"min_p": None}, None),
        ({"logit_bias": {"5": 1}, "temperature": 0}, "logit_bias"),
    ],
)
@pytest.mark.parametrize("method", ["ngram", "draft_model", "a_new_method"])
def test_speculation_does_not_take_every_option(
    method: str, request_: dict[str, Any], field: str | None
) -> None:
    assert limit_of(request_) == field
    able = msgspec.structs.replace(ABLE, speculation=method)
    found = lack(able, CHAT, request_)
    assert (found and found.param) == field
    assert lack(ABLE, CHAT, request_) is None
