"""Odd requests against a real vLLM: each is answered as the client's error or served, and the engine lives on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest, Final

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

SAY = {"messages": [{"role": "user", "content": "Hello"}]}
HUGE = {"type": "array", "items": {"type": "string"}, "minItems": 2**40}
ENDLESS = {"$ref": "#"}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an array of all memory": (CHAT, {**SAY, "response_format": form(HUGE)}, "response_format"),
    "the same as a text": (
        COMPLETIONS,
        {"prompt": "a", "structured_outputs": {"json": json.dumps(HUGE)}},
        "structured_outputs",
    ),
    "the same of Responses": (
        RESPONSES,
        {"input": "a", "text": {"format": {"type": "json_schema", "name": "x", "schema": HUGE}}},
        "text",
    ),
    "the same of Messages": (
        MESSAGES,
        {**SAY, "output_config": {"format": {"type": "json_schema", "schema": HUGE}}},
        "output_config",
    ),
    "the same of a tool": (
        CHAT,
        {
            **SAY,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": HUGE}}],
            "tool_choice": "required",
        },
        "tools",
    ),
}

WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "a schema that is itself": (CHAT, {**SAY, "response_format": form(ENDLESS)}),
    "a schema of Responses that is itself": (
        RESPONSES,
        {"input": "a", "text": {"format": {"type": "json_schema", "name": "x", "schema": ENDLESS}}},
    ),
    "a grammar without a rule": (CHAT, {**SAY, "structured_outputs": {"grammar": "root ::= "}}),
    "a grammar that never ends": (CHAT, {**SAY, "structured_outputs": {"grammar": "root ::= root"}}),
    "no token fits the pattern": (
        CHAT,
        {**SAY, "structured_outputs": {"regex": "[a-z]+"}, "allowed_token_ids": [5]},
    ),
    "a number that no engine takes": (CHAT, {**SAY, "top_k": 10**20}),
    "half a character to stop at": (CHAT, {**SAY, "stop": ["\ud800"]}),
    "half a character as a salt": (CHAT, {**SAY, "cache_salt": "\ud800"}),
    "half a character to avoid": (CHAT, {**SAY, "bad_words": ["\ud800"]}),
    "a wrong schema of Responses": (
        RESPONSES,
        {"input": "a", "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "bogus"}}}},
    ),
    "too many log-probabilities": (
        RESPONSES,
        {"input": "a", "top_logprobs": 10**6, "include": ["message.output_text.logprobs"]},
    ),
    "a stop token that is none": (RESPONSES, {"input": "a", "stop_token_ids": [10**30], "min_tokens": 2}),
    "a token that is none": (COMPLETIONS, {"prompt": [2**40]}),
    "a bias of no token": (COMPLETIONS, {"prompt": "a", "logit_bias": {"99999999": 5}}),
    "a negative count": (COMPLETIONS, {"prompt": "a", "n": -1}),
    "a temperature that is no number": (COMPLETIONS, {"prompt": "a", "temperature": float("nan")}),
    "a template that fails": (CHAT, {**SAY, "chat_template": "{{ 1/0 }}"}),
}


async def ask(engine: Engine, endpoint: str, body: dict[str, Any], *, stream: bool = False) -> Final:
    limit = "max_output_tokens" if endpoint == RESPONSES else "max_tokens"
    raw = json.dumps({limit: 4, **body}).encode()
    return await engine.run(EngineRequest("job_odd", endpoint, raw, stream=stream), lambda _: None)


async def lives(engine: Engine) -> None:
    """See that the engine still answers, and that nothing is left in it, which would look like an engine that hangs."""
    assert (await ask(engine, COMPLETIONS, {"prompt": "a"})).status == 200
    await eventually(lambda: engine.progress() is None)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_would_take_all_memory_does_not_reach_vllm(
    vllm_engine: Engine, name: str, *, stream: bool
) -> None:
    endpoint, body, param = REFUSED[name]
    final = await ask(vllm_engine, endpoint, body, stream=stream)
    error = json.loads(final.body)["error"]
    assert (final.status, error["code"], error["param"]) == (400, "unsupported", param)
    assert "minItems" in error["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_value_is_the_clients_error(vllm_engine: Engine, name: str, *, stream: bool) -> None:
    endpoint, body = WRONG[name]
    final = await ask(vllm_engine, endpoint, body, stream=stream)
    assert final.status == 400, final.body
    assert json.loads(final.body)["error"]["type"] == "invalid_request_error"
    await lives(vllm_engine)


async def test_a_schema_within_the_bound_is_followed(vllm_engine: Engine) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 100_000}
    assert (await ask(vllm_engine, CHAT, {**SAY, "response_format": form(schema)})).status == 200


async def test_its_sockets_lie_in_a_folder_of_its_own(vllm_engine: Engine) -> None:
    folder = vllm_engine._sockets._folder  # type: ignore[attr-defined]
    assert any(one.is_socket() for one in folder.iterdir())
