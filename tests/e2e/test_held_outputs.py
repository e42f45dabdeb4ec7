"""Tokens that the engine process holds back: the answers are the same to the byte, and an abort loses none."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
import pytest_asyncio

from jobs.stream_chunks import Chunk, Frames, Text
from tests.e2e.test_vllm_golden import CHAT, COMPLETIONS, REQUESTS, SAY, SCHEMA, TOOL, normal
from tests.support import eventually
from workers.engines.base import EngineRequest, Final
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings
from workers.engines.vllm.held_outputs import LUMP_TOKENS

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

TRIES = 4
LONG = {"max_tokens": 100, "ignore_eos": True}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "long": (CHAT, {**SAY, **LONG}),
    "one lump": (CHAT, {**SAY, **LONG, "max_tokens": LUMP_TOKENS + 1}),
    "one more than a lump": (CHAT, {**SAY, **LONG, "max_tokens": LUMP_TOKENS + 2}),
    "one token": (CHAT, {**SAY, **LONG, "max_tokens": 1}),
    "end of sequence": (CHAT, {**SAY, "max_tokens": 300, "temperature": 2.0, "seed": 1}),
    "stop tokens": (CHAT, {**SAY, **LONG, "stop_token_ids": list(range(400, 500))}),
    "stop token kept": (
        CHAT,
        {**SAY, **LONG, "stop_token_ids": list(range(400, 500)), "include_stop_str_in_output": True},
    ),
    "min tokens": (CHAT, {**SAY, **LONG, "min_tokens": 50, "stop_token_ids": list(range(300, 2000))}),
    "context": (CHAT, {**SAY, **LONG, "max_tokens": None, "truncate_prompt_tokens": 8}),
    "n=3": (CHAT, {**SAY, **LONG, "n": 3, "temperature": 0.9, "seed": 5}),
    "seeded": (CHAT, {**SAY, **LONG, "temperature": 0.8, "seed": 7, "top_p": 0.9, "top_k": 40}),
    "penalties": (CHAT, {**SAY, **LONG, "presence_penalty": 1.0, "repetition_penalty": 1.2}),
    "logprobs": (CHAT, {**SAY, **LONG, "logprobs": True, "top_logprobs": 2}),
    "prompt logprobs": (CHAT, {**SAY, **LONG, "prompt_logprobs": 1}),
    "token ids": (CHAT, {**SAY, **LONG, "return_token_ids": True}),
    "schema": (CHAT, {**SAY, "response_format": SCHEMA, "max_tokens": 60}),
    "tool required": (CHAT, {**SAY, "tools": [TOOL], "tool_choice": "required", "max_tokens": 60}),
    "tool auto": (CHAT, {**SAY, **LONG, "tools": [TOOL]}),
    "completion": (COMPLETIONS, {"prompt": "The river", **LONG}),
    "completion echo": (COMPLETIONS, {"prompt": "The river", "echo": True, **LONG}),
    "completion logprobs": (COMPLETIONS, {"prompt": "The river", "logprobs": 2, **LONG}),
    "three prompts": (COMPLETIONS, {"prompt": ["The river", "A stone", "Rain"], "n": 2, **LONG}),
    "special tokens": (COMPLETIONS, {"prompt": "The river", "skip_special_tokens": False, **LONG}),
}
REFUSED = {"too long", "no messages", "unknown tool", *(name for name in REQUESTS if name.startswith("bad"))}
SHAPES |= {f"golden {name}": shape for name, shape in REQUESTS.items() if name not in REFUSED}


class Engine:
    """A ``vllm`` engine of the tiny model, which counts the outputs that its engine process sends for each request."""

    def __init__(self, settings: VllmSettings) -> None:
        self.engine: Any = make_engine(settings)
        self.outputs: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    async def start(self) -> None:
        await self.engine.start()
        front = self.engine._llm.output_processor
        process = front.process_outputs

        def counting(outputs: Any, *args: Any, **kwargs: Any) -> Any:
            for one in outputs:
                if (state := front.request_states.get(one.request_id)) is not None:
                    self.outputs[state.external_req_id] += 1
                    self.tokens[state.external_req_id] += len(one.new_token_ids)
            return process(outputs, *args, **kwargs)

        front.process_outputs = counting

    async def sent(self, job: str, *, outputs: int, prefix: str = "chatcmpl") -> None:
        await eventually(lambda: self.outputs[f"{prefix}-{job}"] >= outputs)

    async def run(self, job: str, endpoint: str, body: dict[str, Any]) -> Final:
        content = json.dumps({"model": "tiny-random", "temperature": 0, **body}).encode()
        final: Final = await self.engine.run(EngineRequest(job, endpoint, content), lambda _: None)
        return final

    async def streamed(self, job: str, endpoint: str, body: dict[str, Any]) -> tuple[str, Final]:
        """Run a stream; return its text beside its end."""
        content = json.dumps({"model": "tiny-random", "temperature": 0, **body, "stream": True}).encode()
        texts: list[str] = []

        def emit(chunk: Chunk) -> None:
            texts.append(text_of(chunk))

        request = EngineRequest(job, endpoint, content, stream=True)
        final: Final = await self.engine.run(request, emit)
        return "".join(texts), final


def text_of(chunk: Chunk) -> str:
    """Return what a chunk says."""
    if isinstance(chunk, Text):
        return chunk.text
    choices = (
        [one for frame in chunk.frames for one in json.loads(frame)["choices"]]
        if isinstance(chunk, Frames)
        else []
    )
    return "".join(one["text"] if "text" in one else one["delta"].get("content") or "" for one in choices)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="session",
    params=["Held", pytest.param("AsyncHeld", marks=pytest.mark.full)],
)
async def held(request: pytest.FixtureRequest, vllm_settings: VllmSettings) -> AsyncIterator[Engine]:
    flags = [f"--scheduler-cls=tests.e2e.held_schedulers.{request.param}"]
    if request.param == "AsyncHeld":
        flags.append("--async-scheduling")
    engine = Engine(
        replace(vllm_settings, max_model_len=1024, extra_args=(*vllm_settings.extra_args, *flags))
    )
    await engine.start()
    yield engine
    await engine.engine.stop()


@pytest.mark.parametrize("name", SHAPES)
async def test_answers_are_the_same(held: Engine, name: str) -> None:
    """A stop string that never comes keeps vLLM from holding anything back."""
    endpoint, body = SHAPES[name]
    stop = body.get("stop", [])
    told = await held.run("job_same", endpoint, body)
    plain = await held.run("job_same", endpoint, {**body, "stop": [*stop, "\u0001never"]})
    assert normal(told.body.decode()) == normal(plain.body.decode())
    assert (told.status, told.usage) == (plain.status, plain.usage)


async def test_many_tokens_are_few_outputs(held: Engine) -> None:
    held.outputs.clear()
    await held.run("job_few", CHAT, SHAPES["long"][1])
    await held.run("job_many", CHAT, {**SHAPES["long"][1], "stop": ["\u0001never"]})
    assert held.tokens["chatcmpl-job_few"] == held.tokens["chatcmpl-job_many"] == 100
    assert held.outputs["chatcmpl-job_many"] == 100
    assert held.outputs["chatcmpl-job_few"] < 20


@pytest.mark.parametrize("name", ["long", "one token", "seeded", "completion", "special tokens"])
async def test_a_stream_in_lumps_says_the_same(held: Engine, name: str) -> None:
    endpoint, body = SHAPES[name]
    (text, lumps), _ = await asyncio.gather(
        held.streamed("job_same", endpoint, body), held.streamed("job_beside", endpoint, body)
    )
    same, plain = await held.streamed("job_same", endpoint, {**body, "stop": ["\u0001never"]})
    assert text == same
    assert normal(lumps.body.decode()) == normal(plain.body.decode())
    assert (lumps.status, lumps.usage) == (plain.status, plain.usage)


async def test_two_streams_in_lumps_have_few_outputs_and_one_has_many(held: Engine) -> None:
    for streams in (2, 1):
        held.outputs.clear()
        held.tokens.clear()
        await asyncio.gather(
            *(held.streamed(f"job_lumps_{n}", *SHAPES["completion"]) for n in range(streams))
        )
        assert list(held.tokens.values()) == [100] * streams
        assert (held.outputs.total() < 40) is (streams == 2)


async def test_a_caller_cannot_ask_for_lumps(held: Engine) -> None:
    """A stream of several choices goes through vLLM's own code, token by token."""
    endpoint, body = SHAPES["n=3"]
    held.outputs.clear()
    held.tokens.clear()
    asked = {**body, "vllm_xargs": {"penstock_in_lumps": 1, "another": 1}}
    await held.streamed("job_asks", endpoint, asked)
    assert held.outputs == held.tokens
    assert held.tokens.total() == 300


async def test_an_aborted_stream_loses_none_of_its_tokens(held: Engine) -> None:
    body = {"prompt": "The river", "max_tokens": 900, "ignore_eos": True}
    whole, _ = await held.streamed("job_whole", COMPLETIONS, {**body, "max_tokens": 500})
    beside = asyncio.create_task(held.streamed("job_beside", COMPLETIONS, body))
    for attempt in range(TRIES):
        job = f"job_stream_{attempt}"
        task = asyncio.create_task(held.streamed(job, COMPLETIONS, body))
        await held.sent(f"{job}-0", outputs=3, prefix="cmpl")
        await held.engine.abort(job)
        text, final = await asyncio.wait_for(task, 10)
        assert final.usage is not None
        assert final.usage.completion_tokens > LUMP_TOKENS
        assert text
        assert whole.startswith(text)
        assert json.loads(final.body)["choices"][0]["text"] == text
    await held.engine.abort("job_beside")
    await beside


@pytest.mark.parametrize("more", [{}, {"n": 2, "temperature": 0.8, "seed": 7}])
async def test_abort_keeps_what_is_held_back(held: Engine, more: dict[str, object]) -> None:
    body = {**SAY, "max_tokens": 900, "ignore_eos": True, **more}
    whole = json.loads((await held.run("job_whole", CHAT, {**body, "max_tokens": 500})).body)
    held.outputs.clear()
    held.tokens.clear()
    for attempt in range(TRIES):
        job = f"job_abort_{attempt}"
        task = asyncio.create_task(held.run(job, CHAT, body))
        await held.sent(job, outputs=5)
        await held.engine.abort(job)
        answer = json.loads((await asyncio.wait_for(task, 10)).body)
        assert len(answer["choices"]) == len(whole["choices"])
        for choice, full in zip(answer["choices"], whole["choices"], strict=True):
            assert choice["finish_reason"] == "abort"
            texts = sorted((one["message"]["content"] for one in (choice, full)), key=len)
            assert texts[0]
            assert texts[1].startswith(texts[0])
        got = answer["usage"]["completion_tokens"]
        assert got == held.tokens[f"chatcmpl-{job}"]
        if got % LUMP_TOKENS != len(whole["choices"]):  # else by chance nothing was held back
            break
    else:
        raise AssertionError("only whole lumps came back")
    await eventually(lambda: held.engine.stats().running == 0)


async def test_abort_of_several_choices_leaves_nothing_behind(held: Engine) -> None:
    """vLLM keeps what joins the choices of an aborted request for ever."""
    body = {"model": "tiny-random", **SAY, "max_tokens": 900, "ignore_eos": True, "n": 2}
    request = EngineRequest("job_two", CHAT, json.dumps(body).encode(), stream=True)
    task = asyncio.create_task(held.engine.run(request, lambda _: None))
    await held.sent("job_two", outputs=5)
    await held.engine.abort("job_two")
    assert (await asyncio.wait_for(task, 10)).status == 200
    assert not held.engine._llm.output_processor.parent_requests


async def test_abort_of_a_hung_engine_process_ends_all_the_same(held: Engine) -> None:
    """What it holds back is lost: only it has these tokens."""
    job = "chatcmpl-job_hung"
    task = asyncio.create_task(held.run("job_hung", CHAT, {**SAY, "max_tokens": 900, "ignore_eos": True}))
    await held.sent("job_hung", outputs=2)
    (process,) = held.engine._llm.engine_core.resources.engine_manager.processes
    core = psutil.Process(process.pid)
    core.suspend()
    try:
        await held.engine.abort("job_hung")
        answer = json.loads((await asyncio.wait_for(task, 10)).body)
        assert answer["choices"][0]["finish_reason"] == "abort"
        assert answer["usage"]["completion_tokens"] == held.tokens[job] > 0
    finally:
        core.resume()
    assert (await held.run("job_after", CHAT, SHAPES["one lump"][1])).status == 200
