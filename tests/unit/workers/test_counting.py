from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from workers.engines.counting import context_length, count_prompts, questions, read_count

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HI = [{"role": "user", "content": "hi"}]


def chat(**more: Any) -> dict[str, Any]:
    found = questions(CHAT, {"messages": HI, **more})
    assert found is not None
    ((_, question),) = found[1]
    return question


def test_a_conversation_is_asked_about_as_it_would_be_run() -> None:
    assert chat() == {"messages": HI, "add_generation_prompt": True}
    tools = [{"type": "function", "function": {"name": "f"}}]
    given = {"model": "m", "tools": tools, "continue_final_message": True, "add_generation_prompt": False}
    assert chat(**given, temperature=1, stop=["x"]) == {"messages": HI, **given}
    asked = chat(reasoning_effort="low", documents=[{}], chat_template_kwargs={"a": 1})
    assert asked["chat_template_kwargs"] == {
        "a": 1,
        "reasoning_effort": "low",
        "documents": [{}],
        "enable_thinking": True,
    }
    thought = {"role": "assistant", "content": "x", "reasoning_content": "y"}
    assert chat(messages=[thought])["messages"] == [{"role": "assistant", "content": "x", "reasoning": "y"}]
    found = questions(EMBEDDINGS, {"messages": HI})
    assert found == (0, [(0, {"messages": HI, "add_generation_prompt": False})])


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        ),
        (CHAT, {"messages": "hi"}),
        (CHAT, {"messages": HI, "tools": [{}], "tool_choice": "none"}),
        (CHAT, {"messages": HI, "truncate_prompt_tokens": 5}),
        (CHAT, {"messages": HI, "kv_transfer_params": {}}),
        (COMPLETIONS, {"prompt": "x", "suffix": "y"}),
        (COMPLETIONS, {"prompt_embeds": "x"}),
        (COMPLETIONS, {"prompt": None}),
        (COMPLETIONS, {"prompt": ["x", None]}),
        (EMBEDDINGS, {"input": [HI]}),
        ("/v1/rerank", {"query": "x", "documents": ["y"], "prompt": "z"}),
        ("/v1/responses", {"input": "x", "prompt": "z"}),
    ],
)
def test_what_cannot_be_told_is_not_asked(endpoint: str, body: dict[str, Any]) -> None:
    assert questions(endpoint, body) is None


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("prompt", "expected", "calls"),
    [
        ("x" * 100, 25, 1),
        ([1] * 7, 7, 0),
        ([[1] * 7, [2] * 9], 9, 0),
        (["x" * 40, "y" * 80], 20, 2),
        (["x" * 4, "y" * 100], 25, 1),  # four bytes cannot be more than 25 tokens
        (["x" * 40, [1] * 30], 30, 1),
        (["x" * 10, [1] * 30], 30, 0),
    ],
)
async def test_the_longest_prompt_counts(prompt: Any, expected: int, calls: int) -> None:
    asked = []

    async def tokenize(_: str, question: dict[str, Any]) -> int | None:
        asked.append(question)
        return len(question["prompt"]) // 4

    body = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert await count_prompts(tokenize, COMPLETIONS, body) == expected
    assert len(asked) == calls
    assert all(question["model"] == "m" for question in asked)


@pytest.mark.asyncio
async def test_anthropics_prompts_are_counted_by_their_own_path() -> None:
    asked = []

    async def tokenize(path: str, question: dict[str, Any]) -> int | None:
        asked.append((path, question))
        return 9

    body = {"messages": HI, "system": "be brief", "max_tokens": 5}
    assert await count_prompts(tokenize, "/v1/messages", json.dumps(body).encode()) == 9
    assert asked == [("/v1/messages/count_tokens", body)]
    image = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}]
    assert await count_prompts(tokenize, "/v1/messages", json.dumps({"messages": image}).encode()) is None


@pytest.mark.parametrize("endpoint", ["/v1/classify", "/v1/pooling"])
def test_a_pooled_input_is_asked_about_as_one_to_embed(endpoint: str) -> None:
    asked = {"model": "m", "input": ["one", [1, 2]]}
    assert (
        questions(endpoint, asked)
        == questions(EMBEDDINGS, asked)
        == (2, [(3, {"model": "m", "prompt": "one"})])
    )
    assert questions(endpoint, {"messages": HI}) == questions(EMBEDDINGS, {"messages": HI})


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"prompt": "hi"}'])
async def test_no_answer_is_no_count(body: bytes) -> None:
    async def tokenize(*_: object) -> int | None:
        return None

    assert await count_prompts(tokenize, COMPLETIONS, body) is None


@pytest.mark.parametrize(
    ("status", "body", "count"),
    [
        (200, b'{"count": 3, "max_model_len": 10, "tokens": [1, 2, 3]}', 3),
        (200, b'{"input_tokens": 4, "context_management": {}}', 4),
        (200, b'{"tokens": [1, 2, 3]}', None),  # llama.cpp
        (200, b"[]", None),
        (200, b"<html>", None),
        (404, b'{"count": 3}', None),
    ],
)
def test_only_an_answer_like_vllms_is_read(status: int, body: bytes, count: int | None) -> None:
    assert read_count(status, body) == count


@pytest.mark.parametrize(
    ("pooler", "expected"),
    [
        (None, 512),
        ({}, 512),
        ({"max_embed_len": 300}, 300),
        ({"max_embed_len": 1024}, 512),
        ({"enable_chunked_processing": True}, None),
        ({"enable_chunked_processing": True, "max_embed_len": 4096}, 4096),
    ],
)
def test_an_embedding_model_may_take_more(pooler: dict[str, Any] | None, expected: int | None) -> None:
    config = SimpleNamespace(max_model_len=512, pooler_config=pooler and SimpleNamespace(**pooler))
    assert context_length(config) == expected
