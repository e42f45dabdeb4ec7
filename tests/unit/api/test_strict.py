"""Answers in the form of OpenAI's specification, as vLLM's own answers show it and as the SDK's models know it."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from anthropic.types import Message
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from api.http.strict import RESPONSE_EVENT, STREAMED, WHOLE, Form, shaped_stream, shaped_whole
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, POOLING, RESPONSES

VLLM_CHAT = """{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":
{"role":"assistant","content":"a","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},
"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null}],"service_tier":null,
"system_fingerprint":"vllm","usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1,"prompt_tokens_details":null,
"completion_tokens_details":null},"prompt_logprobs":null,"kv_transfer_params":null,"metrics":null}"""
STRICT_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "system_fingerprint": "vllm",
    "usage": {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1},
}
VLLM_RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "created_at": 1,
    "incomplete_details": None,
    "instructions": None,
    "metadata": None,
    "model": "m",
    "object": "response",
    "output": [
        {
            "id": "msg_1",
            "content": [{"annotations": [], "text": "a", "type": "output_text", "logprobs": None}],
            "role": "assistant",
            "status": "completed",
            "type": "message",
            "phase": None,
        }
    ],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "none",
    "tools": [
        {"type": "function", "name": "f", "description": None, "parameters": {"a": None}, "strict": None}
    ],
    "top_p": 1.0,
    "background": False,
    "max_output_tokens": 5,
    "max_tool_calls": None,
    "previous_response_id": None,
    "prompt": None,
    "reasoning": None,
    "service_tier": "auto",
    "status": "completed",
    "text": None,
    "top_logprobs": None,
    "truncation": "disabled",
    "usage": None,
    "user": None,
    "kv_transfer_params": None,
    "input_messages": None,
}


OPEN = {"store"}
"""Members that Open Responses, the specification behind Responses, requires, and that the SDK's models leave out."""


def shaped(form: Form, value: object) -> Any:
    return json.loads(form(json.dumps(value).encode()))


def test_a_chat_answer() -> None:
    assert json.loads(WHOLE[CHAT](VLLM_CHAT.encode())) == STRICT_CHAT
    assert shaped(WHOLE[CHAT], STRICT_CHAT) == STRICT_CHAT
    ChatCompletion.model_validate(STRICT_CHAT, strict=True)


def test_what_the_engine_says_beyond_the_specification_stays() -> None:
    more = {"stop_reason": 7, "token_ids": [1, None], "reasoning": "so", "logprobs": None}
    answer = {"choices": [more], "penstock": {"ttft_ms": None}, "number": 1.50}
    got = shaped(WHOLE[COMPLETIONS], answer)
    assert got == {"choices": [more], "penstock": {"ttft_ms": None}, "number": 1.5}
    assert b"1.50" in WHOLE[COMPLETIONS](b'{"number":1.50,"x":null}')


def test_a_response_and_its_events() -> None:
    got = shaped(WHOLE[RESPONSES], VLLM_RESPONSE)
    assert got["text"] == {"format": {"type": "text"}}
    assert got["top_logprobs"] == 0
    assert got["output"][0]["content"][0] == {
        "annotations": [],
        "text": "a",
        "type": "output_text",
        "logprobs": [],
    }
    assert "phase" not in got["output"][0]
    assert got["tools"] == VLLM_RESPONSE["tools"]
    for name in ("completed_at", "error", "safety_identifier", "prompt_cache_key", "usage", "metadata"):
        assert got[name] is None
    assert not {"kv_transfer_params", "input_messages"} & got.keys()
    assert got["store"] is True
    done = {"type": "response.completed", "sequence_number": 3, "response": VLLM_RESPONSE}
    assert shaped(RESPONSE_EVENT, done) == done | {"response": got}
    TypeAdapter(ResponseStreamEvent).validate_python(shaped(RESPONSE_EVENT, done))
    error = {"type": "error", "sequence_number": 1, "message": "m", "code": None, "param": None}
    assert shaped(RESPONSE_EVENT, error) == error
    call = {"type": "function_call", "arguments": '{"a": null}', "status": None}
    item = {"type": "response.output_item.added", "item": call}
    assert shaped(RESPONSE_EVENT, item)["item"] == {"type": "function_call", "arguments": '{"a": null}'}


@pytest.mark.parametrize("body", [b"null", b"[]", b'"a"', b"{}", b"7"])
def test_what_has_no_such_members_has_a_form_too(body: bytes) -> None:
    for form in (*WHOLE.values(), *STREAMED.values()):
        json.loads(form(body))


def test_a_message() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": None}}
    usage = {"input_tokens": 1, "output_tokens": 1}
    got = shaped(
        WHOLE[MESSAGES], {"content": [{"type": "text", "text": "a"}, block], "usage": usage, "x": None}
    )
    assert got["content"][0] == {"type": "text", "text": "a", "citations": None}
    assert got["content"][1] == {**block, "caller": {"type": "direct"}}
    assert got["stop_sequence"] is got["container"] is got["usage"]["server_tool_use"] is None
    assert "x" not in got
    event = {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    assert shaped(STREAMED[MESSAGES], event) == event


@pytest.mark.asyncio
async def test_only_the_data_of_a_stream_are_shaped() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    frames = b': ping\n\nevent: x\ndata: {"a":null,"b":1}\n\ndata: [DONE]\n\n'
    await shaped_stream(CHAT, send)({"type": "http.response.body", "body": frames, "more_body": True})
    assert sent[0]["body"] == b': ping\n\nevent: x\ndata: {"b":1}\n\ndata: [DONE]\n\n'
    assert shaped_stream(POOLING, send) is send
    assert shaped_whole(POOLING, b'{"a":null}') == b'{"a":null}'


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a type: of a list its items', of a union all."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def check(form: Form, models: list[type[BaseModel]], path: str) -> None:
    """Fail for a member of the table that no model of the SDK has, and for one that may never be null."""
    for name in {*form.nullable, *form.required, *form.inner} - OPEN:
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        assert fields, f"{path}.{name} is in no model of the SDK"
        if name in form.nullable:
            assert any(not field.is_required() for field in fields), f"{path}.{name} is never null"
        if name in form.inner:
            check(
                form.inner[name],
                [model for field in fields for model in models_in(field.annotation)],
                f"{path}.{name}",
            )


@pytest.mark.parametrize(
    ("form", "model"),
    [
        (WHOLE[CHAT], ChatCompletion),
        (STREAMED[CHAT], ChatCompletionChunk),
        (WHOLE[COMPLETIONS], Completion),
        (WHOLE[EMBEDDINGS], CreateEmbeddingResponse),
        (WHOLE[RESPONSES], Response),
        (WHOLE[MESSAGES], Message),
    ],
)
def test_the_tables_name_members_of_the_sdks_models(form: Form, model: type[BaseModel]) -> None:
    check(form, [model], model.__name__)
