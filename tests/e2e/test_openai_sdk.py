"""The official `openai` SDK, unchanged, against `penstock up` with real vLLM."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from api.openai.answer_schema import ANSWERS, EVENTS, ModelList
from jobs.endpoints import CHAT, COMPLETIONS, ENDPOINTS, MESSAGES, RESPONSES
from penstock._core.sse import SSEParser
from tests.documented import assert_documented
from tests.e2e.stacks import Stack
from tests.pace import Pace
from tests.support import wait_until

MODEL = "tiny-random"
HELLO = [{"role": "user", "content": "Hello there, what falls through the gate?"}]
TO_THE_END = {"ignore_eos": True}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
        },
    },
}


pytestmark = pytest.mark.xdist_group("vllm")


@pytest.fixture(scope="module")
def client(vllm_stack: Stack) -> Any:
    """An ``OpenAI``. Of no type: it is given what no type of its own allows."""
    return OpenAI(base_url=f"{vllm_stack.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_models(client: Any) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == (MODEL, "vllm")
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("other")
    assert missing.value.code == "model_not_found"


def test_chat_with_headers_and_exact_usage(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=7, temperature=0, extra_body=TO_THE_END
    )
    answer = raw.parse()
    assert answer.id == f"chatcmpl-{raw.headers['x-penstock-job-id']}"
    assert int(raw.headers["x-penstock-total-ms"]) >= int(raw.headers["x-penstock-queue-ms"]) >= 0
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.choices[0].finish_reason == "length"


def test_seed_n_stop_logprobs(client: Any) -> None:
    options = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "extra_body": TO_THE_END}
    first, second = (client.chat.completions.create(**options, seed=7, temperature=1.0) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert len(client.chat.completions.create(**options, n=3, temperature=1.0).choices) == 3
    greedy = client.chat.completions.create(**options, temperature=0).choices[0].message.content
    stop = greedy[4:7]
    stopped = client.chat.completions.create(**options, temperature=0, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == greedy[: greedy.index(stop)]
    logprobs = (
        client.chat.completions.create(**options, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    )
    assert len(logprobs) == 12
    assert all(len(token.top_logprobs) == 2 for token in logprobs)


def test_json_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=64,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(client: Any, streamed: bool) -> None:
    options = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_tokens": 200,
        "temperature": 0,
    }
    if streamed:
        name = arguments = ""
        for chunk in client.chat.completions.create(**options, stream=True):
            for call in chunk.choices[0].delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    else:
        (call,) = client.chat.completions.create(**options).choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "weather"
    json.loads(
        arguments
    )  # vLLM holds a named tool's arguments to JSON; to the schema only where it is strict


def test_stream_equals_the_whole_answer(client: Any) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 40, "temperature": 0}
    options["extra_body"] = TO_THE_END
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    last = chunks[-1].model_dump()
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last["usage"]["completion_tokens"] == 40
    assert last["penstock"]["tokens_per_s"] > 0
    assert last["penstock"]["total_ms"] >= last["penstock"]["ttft_ms"] >= 0


def test_include_usage_has_its_own_chunk(client: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=TO_THE_END,
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_completions_whole_and_streamed(client: Any) -> None:
    options = {"model": MODEL, "prompt": "The wheel turns", "max_tokens": 9, "temperature": 0}
    whole = client.completions.create(**options)
    assert whole.id.startswith("cmpl-job_")
    assert (
        "".join(c.choices[0].text for c in client.completions.create(**options, stream=True))
        == whole.choices[0].text
    )


def test_refusals_are_openais(client: Any, vllm_stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature="warm")
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a b c d " * 3000}])
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.embeddings.create(model=MODEL, input="x")
    assert unsupported.value.code == "unsupported"
    for streamed in (False, True):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=100_000, stream=streamed)
    counts = httpx.get(f"{vllm_stack.url}/v1/jobs", params={"state": "queued"}).json()["data"]
    assert counts == []


@pytest.mark.parametrize("more", [{}, {"tools": [TOOL]}, {"stream": True}])
def test_a_prompt_one_token_too_long_never_enters_the_queue(
    client: Any, vllm_stack: Stack, more: dict
) -> None:
    """The tiny model has 4,096 tokens; one of them is for the answer."""

    def ask(words: int) -> Any:
        prompt = [{"role": "user", "content": " the" * words}]  # a token each
        return client.chat.completions.create(model=MODEL, messages=prompt, max_tokens=9, **more)

    def jobs() -> list[str]:
        return [job["id"] for job in httpx.get(f"{vllm_stack.url}/v1/jobs").json()["data"]]

    def prompt_tokens(answer: Any) -> int:
        return (list(answer)[-1] if more.get("stream") else answer).usage.prompt_tokens

    words = 1 + 4095 - prompt_tokens(ask(1))
    assert prompt_tokens(ask(words)) == 4095
    before = jobs()
    with pytest.raises(openai.BadRequestError, match="4096 tokens, which leaves none") as one:
        ask(words + 1)
    with pytest.raises(openai.BadRequestError, match="have 4196 tokens") as many:
        ask(words + 101)
    codes = {(error.value.code, error.value.param) for error in (one, many)}
    assert codes == {("context_length_exceeded", "messages")}
    body = {"model": MODEL, "prompt": [5] * 4096}
    got = httpx.post(f"{vllm_stack.url}/v1/jobs", json={"endpoint": "/v1/completions", "input": body})
    assert (got.status_code, got.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert jobs() == before


def running_in_engine(stack: Stack) -> float:
    groups = httpx.get(f"{stack.url}/v1/metrics/targets").json()
    (worker,) = [group for group in groups if "worker" in group["labels"]]
    lines = httpx.get(f"http://{worker['targets'][0]}/metrics").text.splitlines()
    (running,) = [line for line in lines if line.startswith("vllm:num_requests_running")]
    return float(running.split()[-1])


def test_a_client_that_hangs_up_frees_the_engine(client: Any, vllm_stack: Stack) -> None:
    pace = Pace()
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=3500, stream=True, extra_body=TO_THE_END
    )
    first = next(iter(stream))
    stream.close()
    job_id = first.id.removeprefix("chatcmpl-")
    wait_until(lambda: httpx.get(f"{vllm_stack.url}/v1/jobs/{job_id}").json()["state"] == "cancelled")
    assert pace.allows(5), pace
    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)  # a step, which reports
    wait_until(lambda: running_in_engine(vllm_stack) == 0)


def test_answers_are_as_the_document_says(vllm_stack: Stack) -> None:
    say = {"model": MODEL, "messages": HELLO, "max_tokens": 4}
    bodies = {
        CHAT: say,
        COMPLETIONS: {"model": MODEL, "prompt": "Hello", "max_tokens": 4},
        MESSAGES: say,
        RESPONSES: {"model": MODEL, "input": "Hello", "max_output_tokens": 4},
    }
    with httpx.Client(base_url=vllm_stack.url, timeout=120) as http:
        assert_documented(ModelList, http.get("/v1/models").json())
        for path, body in bodies.items():
            assert_documented(ANSWERS[path], http.post(path, json=body).json())
            with http.stream("POST", path, json=body | {"stream": True}) as got:
                events = SSEParser().feed(got.read())
            assert len(events) > 3
            for event in events:
                data = event.data if event.data == "[DONE]" else json.loads(event.data)
                named = {"event": event.event} if ENDPOINTS[path].streams == "events" else {}
                assert_documented(EVENTS[path], {**named, "data": data})
