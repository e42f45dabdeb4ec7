"""`/v1/responses` in batches with real vLLM: by the engine itself, and through `penstock up`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response

from jobs.stream_chunks import Chunk
from tests.batching import create, ended, lines
from tests.e2e.stacks import Stack
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest, Final

MODEL, RESPONSES = "tiny-random", "/v1/responses"
TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}},
        "required": ["city"],
    },
}

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def request_of(ident: str, **body: object) -> EngineRequest:
    asked = {"model": MODEL, "input": "Hello", "temperature": 0, **body}
    return EngineRequest(ident, RESPONSES, json.dumps(asked).encode())


def never(chunk: Chunk) -> None:
    pytest.fail(f"emitted {chunk} for a request that is not streamed")


async def test_the_engine_has_it_and_names_the_response(vllm_engine: Engine) -> None:
    (model,) = vllm_engine.models()
    assert RESPONSES in model.endpoints

    async def ask(ident: str, **body: object) -> Final:
        return await vllm_engine.run(request_of(ident, **body), never)

    first, second = await asyncio.gather(
        *(ask(f"row_{n}", max_output_tokens=9, request_id="mine", ignore_eos=True) for n in (1, 2))
    )
    answer = Response.model_validate_json(first.body)
    assert (answer.id, json.loads(second.body)["id"]) == ("resp_row_1", "resp_row_2")
    assert (first.status, answer.status, answer.usage.output_tokens) == (200, "incomplete", 9)
    assert answer.output_text == Response.model_validate_json(second.body).output_text
    assert first.usage is not None
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (answer.usage.input_tokens, 9)
    wrong = await ask("row_3", temperature="warm")
    assert (wrong.status, json.loads(wrong.body)["error"]["param"]) == (400, "body.temperature")
    assert (await ask("row_4", input="a b c d " * 3000)).status == 400


async def test_a_cancelled_row_frees_the_engine(vllm_engine: Engine) -> None:
    long = request_of("row_9", max_output_tokens=3500, ignore_eos=True)
    task = asyncio.create_task(vllm_engine.run(long, never))
    await eventually(lambda: vllm_engine.stats().running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: vllm_engine.stats().running == 0)


async def test_a_batch_through_the_whole_stack(vllm_stack: Stack) -> None:
    said = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"role": "assistant", "content": "The wheel"},
        {"role": "user", "content": "turns?"},
    ]
    schema = {"type": "string", "enum": ["yes", "no"]}  # without room for the blanks that random weights like
    shaped = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    forced = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}
    bodies: dict[str, dict[str, Any]] = {
        **{f"n{n}": {"input": f"Hello {n}", "max_output_tokens": 8, "ignore_eos": True} for n in range(20)},
        "items": {"input": said, "instructions": "be brief", "max_output_tokens": 8},
        "shaped": {"input": "Hello", "text": shaped, "max_output_tokens": 64},
        "tool": {"input": "Hello", **forced, "max_output_tokens": 200, "temperature": 0},
        "bad": {"input": "Hello", "temperature": "warm"},
    }
    rows = [
        {"custom_id": name, "method": "POST", "url": RESPONSES, "body": {"model": MODEL, **body}}
        for name, body in bodies.items()
    ]
    async with AsyncOpenAI(base_url=f"{vllm_stack.url}/v1", api_key="none", max_retries=0) as client:
        batch = await ended(client, (await create(client, rows, endpoint=RESPONSES)).id, 120)
        assert batch.status == "completed"
        output = await lines(client, batch.output_file_id)
        errors = await lines(client, batch.error_file_id)
    answers = {line["custom_id"]: Response.model_validate(line["response"]["body"]) for line in output}
    assert {line["custom_id"]: line["response"]["status_code"] for line in errors} == {"bad": 400}
    assert set(answers) == set(bodies) - {"bad"}
    assert all(answers[f"n{n}"].usage.output_tokens == 8 for n in range(20))
    assert json.loads(answers["shaped"].output_text) in {"yes", "no"}
    (call,) = answers["tool"].output
    assert (call.type, call.name) == ("function_call", "weather")
    json.loads(str(call.arguments))
    assert batch.usage.input_tokens == sum(answer.usage.input_tokens for answer in answers.values())
    assert batch.usage.output_tokens == sum(answer.usage.output_tokens for answer in answers.values())
