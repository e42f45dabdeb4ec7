"""What the in-process engine answers is, byte for byte, what vLLM's own server answers to the same
request."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from jobs.answers import json_or_failure
from jobs.stream_chunks import Chunk
from workers.engines.assemble import Assembler, SseReader
from workers.engines.base import Engine, EngineRequest
from workers.engines.vllm.probe import render

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

SAY: dict[str, Any] = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me a story"}]
}
TOOL = {
    "type": "function",
    "function": {
        "name": "set_gate",
        "description": "Open or close a gate",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"state": {"type": "string", "enum": ["open", "closed"]}},
            "required": ["state"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"word": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
            "required": ["word", "sure"],
            "additionalProperties": False,
        },
    },
}

TRIES = 8
"""Pairs of streams until both have the same chunks: a busy machine joins deltas, and not the same ones on both sides."""

REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "plain": (CHAT, SAY),
    "unicode": (CHAT, {"messages": [{"role": "user", "content": 'Zürich "東京" 🙂\n\t\\ \u2028'}]}),
    "stop string": (CHAT, {**SAY, "max_tokens": 40, "stop": ["e"]}),
    "stop string kept": (CHAT, {**SAY, "max_tokens": 40, "stop": ["e"], "include_stop_str_in_output": True}),
    "stop at once": (CHAT, {**SAY, "stop_token_ids": list(range(4096))}),
    "one token": (CHAT, {**SAY, "max_tokens": 1}),
    "n=2": (CHAT, {**SAY, "n": 2, "temperature": 0.8, "seed": 7}),
    "seeded": (CHAT, {**SAY, "temperature": 0.8, "seed": 7, "top_p": 0.9}),
    "logprobs": (CHAT, {**SAY, "logprobs": True, "top_logprobs": 2, "max_tokens": 4}),
    "token ids": (CHAT, {**SAY, "return_token_ids": True, "max_tokens": 4}),
    "json schema": (CHAT, {**SAY, "response_format": SCHEMA, "max_tokens": 60}),
    "tool required": (CHAT, {**SAY, "tools": [TOOL], "tool_choice": "required", "max_tokens": 60}),
    "tool named": (
        CHAT,
        {
            **SAY,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "set_gate"}},
            "max_tokens": 60,
        },
    ),
    "tool auto": (CHAT, {**SAY, "tools": [TOOL]}),
    "tool none": (CHAT, {**SAY, "tools": [TOOL], "tool_choice": "none"}),
    "continue": (
        CHAT,
        {
            "messages": [*SAY["messages"], {"role": "assistant", "content": "Once"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "echo": True,
        },
    ),
    "completion": (COMPLETIONS, {"prompt": "The river"}),
    "completion stop": (COMPLETIONS, {"prompt": "The river", "stop": ["e"], "max_tokens": 40}),
    "completion echo": (COMPLETIONS, {"prompt": "The river", "echo": True}),
    "completion logprobs": (COMPLETIONS, {"prompt": "The river", "logprobs": 2, "max_tokens": 4}),
    "completion logprobs 0": (COMPLETIONS, {"prompt": "The river", "logprobs": 0, "max_tokens": 4}),
    "completion logprobs false": (COMPLETIONS, {"prompt": "The river", "logprobs": False, "max_tokens": 4}),
    "completion token prompt": (COMPLETIONS, {"prompt": [500, 501, 502]}),
    "completion two prompts": (COMPLETIONS, {"prompt": ["The river", "A stone"]}),
    "continuous usage": (
        CHAT,
        {**SAY, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ),
    "bad temperature": (CHAT, {**SAY, "temperature": -1}),
    "bad type": (CHAT, {**SAY, "max_tokens": "many"}),
    "bad model": (CHAT, {**SAY, "model": "other"}),
    "bad n": (CHAT, {**SAY, "n": 2}),
    "too long": (CHAT, {"messages": [{"role": "user", "content": "word " * 9000}]}),
    "no messages": (CHAT, {}),
    "bad schema": (CHAT, {**SAY, "response_format": {"type": "json_schema"}}),
    "bad stream options": (CHAT, {**SAY, "stream_options": {"include_usage": "perhaps"}}),
    "unknown tool": (
        CHAT,
        {**SAY, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
    ),
}


def normal(text: str) -> str:
    """Blank what differs from request to request, and the hash of the engine's configuration: our scheduler is in it."""
    text = re.sub(r'"created":\d+', '"created":0', text)
    text = re.sub(r'("system_fingerprint":"vllm-[\d.]+-)[0-9a-f]{8}"', r'\1hash"', text)
    text = re.sub(r"chatcmpl-tool-[0-9a-f]+", "chatcmpl-tool-0", text)
    return re.sub(r"call_[0-9a-zA-Z]+", "call_0", text)


def shaped(status: int, answer: bytes) -> str:
    """Give vLLM's error OpenAI's ``type`` and ``code``, as every error of an engine gets them. An answer stays as it is."""
    return json_or_failure(status, answer)[1].decode()


def merged(frames: list[str]) -> list[tuple[str | None, str]]:
    """Join neighbouring text chunks: vLLM joins deltas when it is late, and so may we."""
    frames = sorted(frames, key=_choice)
    out: list[tuple[str | None, str]] = []
    for frame in frames:
        key, text = _shape(json.loads(frame))
        if text is None:
            out.append((None, frame))
        elif out and out[-1][0] == key:
            out[-1] = (key, out[-1][1] + text)
        elif text:
            out.append((key, text))
    return out


def _choice(frame: str) -> int:
    """Sort by choice: which of two is ahead is chance."""
    choices = json.loads(frame).get("choices")
    return choices[0]["index"] if choices else 99


def _shape(tree: dict) -> tuple[str | None, str | None]:
    choices = tree.get("choices") or []
    if (
        len(choices) != 1
        or choices[0].get("finish_reason")
        or tree.get("usage")
        or choices[0].get("logprobs")
    ):
        return None, None
    choice = choices[0]
    holder, name = (choice, "text") if "text" in choice else (choice.get("delta") or {}, "content")
    if set(holder) & {"role", "tool_calls", "reasoning"} or name not in holder or choice.get("token_ids"):
        return None, None
    text = holder[name]
    holder[name] = None
    return normal(json.dumps(tree)), text


def body_of(name: str, *, stream: bool, usage: bool) -> tuple[str, bytes]:
    endpoint, change = REQUESTS[name]
    body = {"model": "tiny-random", "max_tokens": 12, "temperature": 0, **change}
    if stream:
        body["stream"] = True
        if usage:
            body["stream_options"] = {"include_usage": True}
    elif name == "continuous usage":
        body.pop("stream_options")
    return endpoint, json.dumps(body).encode()


def headers(name: str) -> dict[str, str]:
    return {"X-Request-Id": f"job_{abs(hash(name))}", "Content-Type": "application/json"}


@pytest.fixture(
    scope="module", params=["vllm_frontend", pytest.param("vllm_process", marks=pytest.mark.full)]
)
def server_url(request: pytest.FixtureRequest) -> str:
    """vLLM's own server: its HTTP app over our engine's client, or all of it in a process of its own."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def vllm_server(server_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server_url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("name", REQUESTS)
async def test_whole_responses(vllm_engine: Engine, vllm_server: httpx.AsyncClient, name: str) -> None:
    endpoint, body = body_of(name, stream=False, usage=False)
    theirs = await vllm_server.post(endpoint, content=body, headers=headers(name))
    ours = await vllm_engine.run(EngineRequest(headers(name)["X-Request-Id"], endpoint, body), lambda _: None)
    assert normal(ours.body.decode()) == normal(shaped(theirs.status_code, theirs.content))
    assert ours.status == theirs.status_code


@pytest.mark.parametrize(
    ("name", "usage"),
    [(n, u) for n in REQUESTS for u in (False, True) if not (u and "stream_options" in REQUESTS[n][1])],
)
async def test_streams(vllm_engine: Engine, vllm_server: httpx.AsyncClient, name: str, usage: bool) -> None:
    endpoint, body = body_of(name, stream=True, usage=usage)
    chat = endpoint == CHAT
    for _ in range(TRIES):
        theirs = await vllm_server.post(endpoint, content=body, headers=headers(name))
        chunks: list[Chunk] = []
        request = EngineRequest(headers(name)["X-Request-Id"], endpoint, body, stream=True)
        ours = await vllm_engine.run(request, chunks.append)
        if theirs.headers["content-type"].startswith("application/json"):
            assert (ours.status, normal(ours.body.decode())) == (
                theirs.status_code,
                normal(shaped(theirs.status_code, theirs.content)),
            )
            assert chunks == []
            return
        frames = SseReader().feed(theirs.content)
        if "error" in json.loads(frames[0]):
            # Their stream had begun when the refusal came: they say 200 and then an error; we say the error.
            assert ours.status == json.loads(frames[0])["error"]["code"]
            assert json.loads(ours.body) == json.loads(shaped(ours.status, frames[0].encode()))
            return
        sent, expected = ([normal(frame) for frame in side] for side in (render(chunks), frames))
        assert total(sent, chat=chat) == total(expected, chat=chat)
        assert sent[0] == expected[0] or not chat
        if usage:
            assert sent[-1] == expected[-1]
        if same_chunks(sent, expected):
            break
    else:
        assert sent == expected
    _, body = body_of(name, stream=False, usage=False)
    whole = (await vllm_server.post(endpoint, content=body, headers=headers(name))).json()
    assembled = json.loads(ours.body)
    assert assembled["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert len(assembled["choices"]) == len(whole["choices"])
    for one, other in zip(assembled["choices"], whole["choices"], strict=True):
        assert one["finish_reason"] == other["finish_reason"]
        for key in ("text", "logprobs"):
            if one.get(key) is not None:
                assert one[key] == other[key], key
        if "message" in one and not (name.startswith("tool") and one["finish_reason"] == "length"):
            assert (one["message"]["content"] or "") == (other["message"]["content"] or "")
            assert calls_of(one) == calls_of(other)


def same_chunks(sent: list[str], expected: list[str]) -> bool:
    """Whether both streams have chunks of the same form, but for text that was joined."""
    # A late reader, theirs or ours, gets deltas joined: then a middle shape may be missing on one side.
    odd = {blank(frame) for frame in sent} ^ {blank(frame) for frame in expected}
    if any('"finish_reason":null' not in shape for shape in odd):
        return False
    return len(sent) != len(expected) or merged(sent) == merged(expected)


def total(frames: list[str], *, chat: bool) -> Any:
    """Put a stream together. The order of its keys depends on how many chunks a busy machine made of it."""
    assembler = Assembler(chat=chat)
    for frame in frames:
        assembler.add(frame)
    return json.loads(normal(assembler.result().decode()))


def blank(frame: str) -> str:
    """Return the frame's shape: its keys and reasons, without what was generated."""
    tree = json.loads(frame)
    for choice in tree["choices"]:
        for key in ("text", "logprobs", "token_ids"):
            if choice.get(key) is not None:
                choice[key] = "generated"
        if "delta" in choice and choice["delta"].get("role") is None:
            choice["delta"] = "generated"
    if tree["choices"] and "usage" in tree:
        tree["usage"] = "counted"
    return json.dumps(tree, separators=(",", ":"))


def calls_of(choice: dict) -> list[tuple[str, object]]:
    """Return a choice's tool calls: names, and arguments as JSON values (vLLM spaces them in two ways)."""
    functions = [call["function"] for call in choice["message"].get("tool_calls") or []]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]
