"""The paced engine: vLLM's scheduler on a clock, without a model."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.engines import PACE, PACED_STEP_TOKENS, QUICK_ENV
from tests.e2e.vllm_servers import server_process
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest, EngineStartError, Final
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
BLOCK_TOKENS = 16

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


class Device:
    """The engine's clock: the steps that it has taken since this object was made."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._seen = engine, 0

    async def steps(self) -> list[list[Any]]:
        """Return ``[given, start, end, decodes, prompt tokens]`` of each step since the last call."""
        (log,) = await self._engine._llm.collective_rpc("step_log")
        new, self._seen = log[self._seen :], len(log)
        return new


@pytest_asyncio.fixture(loop_scope="session")
async def device(paced_engine: Engine) -> Device:
    device = Device(paced_engine)
    await device.steps()
    return device


async def run(engine: Engine, name: str, prompt: object, endpoint: str = COMPLETIONS, **more: object) -> Any:
    body = {"model": "paced", "prompt": prompt, "max_tokens": 8, **more}
    if endpoint == CHAT:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    final = await engine.run(EngineRequest(name, endpoint, json.dumps(body).encode()), lambda chunk: None)
    assert final.status == 200, final.body
    return json.loads(final.body)


def fresh(start: int, tokens: int) -> list[int]:
    """Return a prompt that begins as no other one does."""
    return [1000 + start, *(1000 + (start * 7 + at) % 2000 for at in range(tokens - 1))]


def text_of(response: Any) -> str:
    text = response["choices"][0]["text"]
    assert isinstance(text, str)
    return text


async def test_it_says_what_it_is(paced_engine: Engine) -> None:
    (model,) = paced_engine.models()
    assert model.card["penstock"] == {
        "paced": {"base_ms": 4.0, "per_decode_ms": 0.1, "per_prompt_token_ms": 0.01}
    }
    assert paced_engine.capacity() == 16


async def test_steps_take_the_time_of_the_cost_model(paced_engine: Engine, device: Device) -> None:
    begun = time.monotonic()
    responses = await asyncio.gather(
        *(run(paced_engine, f"cost-{n}", fresh(n, 50 + n), max_tokens=10 + n) for n in range(12))
    )
    took = time.monotonic() - begun
    steps = await device.steps()
    cost = 0.0
    before = 0.0
    for given, start, end, decodes, prompt_tokens in steps:
        assert end - start == pytest.approx(PACE.step_s(decodes, prompt_tokens), abs=1e-9)
        assert start == max(given, before)
        before = end
        cost += PACE.step_s(decodes, prompt_tokens)
    assert took >= cost
    made = sum(response["usage"]["completion_tokens"] for response in responses)
    # Each request's first token comes with its prompt. A step that was given before a request's end was known may
    # decode it once more.
    assert made - 12 <= sum(step[3] for step in steps) <= made
    assert sum(step[4] for step in steps) == sum(range(50, 62))


async def test_a_step_is_scheduled_while_the_one_before_runs(paced_engine: Engine, device: Device) -> None:
    await run(paced_engine, "async", fresh(50, 20), max_tokens=60)
    steps = await device.steps()
    early = [
        given < before_end for (given, *_), (_, _, before_end, *_) in zip(steps[1:], steps, strict=False)
    ]
    assert early.count(True) > 0.5 * len(early)  # without asynchronous scheduling: none


async def test_the_same_prompt_gets_the_same_text_in_any_batch(paced_engine: Engine) -> None:
    alone = [await run(paced_engine, f"alone-{n}", fresh(100 + n, 30)) for n in range(6)]
    batch = await asyncio.gather(*(run(paced_engine, f"batch-{n}", fresh(100 + n, 30)) for n in range(6)))
    texts = [text_of(one) for one in alone]
    assert texts == [text_of(one) for one in batch]
    assert len(set(texts)) == 6
    # Written down, as it holds for every process and every machine with this tokenizer.
    assert text_of(await run(paced_engine, "known", "Say a word.", max_tokens=4)) == KNOWN


KNOWN = " energyer forest sees dark"


async def test_a_long_prompt_is_read_in_chunks_and_a_second_time_from_the_cache(
    paced_engine: Engine, device: Device
) -> None:
    prompt = fresh(200, 5000)
    first = await run(paced_engine, "long", prompt)
    chunks = [step[4] for step in await device.steps() if step[4]]
    assert (len(chunks), sum(chunks), max(chunks)) == (3, 5000, PACED_STEP_TOKENS)
    again = await run(paced_engine, "long-again", prompt)
    assert text_of(again) == text_of(first)
    assert sum(step[4] for step in await device.steps()) == 5000 - 5000 // BLOCK_TOKENS * BLOCK_TOKENS


async def test_preempted_requests_answer_the_same(paced_engine: Engine) -> None:
    before = paced_engine.stats().preemptions
    prompts = [
        fresh(300 + n, 840) for n in range(13)
    ]  # 689 blocks of 16 tokens, and six more each at the end
    together = await asyncio.gather(
        *(run(paced_engine, f"evicted-{n}", prompt, max_tokens=100) for n, prompt in enumerate(prompts))
    )
    assert paced_engine.stats().preemptions > before
    for n in (0, 7, 12):
        alone = await run(paced_engine, f"not-evicted-{n}", prompts[n], max_tokens=100)
        assert text_of(alone) == text_of(together[n])


async def test_an_abort_keeps_what_there_is_and_frees_the_rest(paced_engine: Engine) -> None:
    running = asyncio.create_task(run(paced_engine, "stopped", fresh(400, 20), max_tokens=2000))
    await eventually(lambda: paced_engine.stats().kv_cache_usage > 0)
    await paced_engine.abort("stopped")
    response = await running
    assert response["choices"][0]["finish_reason"] == "abort"
    assert 0 < response["usage"]["completion_tokens"] < 2000
    cancelled = asyncio.create_task(run(paced_engine, "cancelled", fresh(401, 20), max_tokens=2000))
    await eventually(lambda: paced_engine.stats().running > 0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert len(text_of(await run(paced_engine, "next", fresh(402, 20)))) > 0


async def test_several_choices_differ(paced_engine: Engine) -> None:
    response = await run(paced_engine, "choices", "Say a word.", CHAT, n=3)
    texts = {choice["message"]["content"] for choice in response["choices"]}
    assert len(texts) == 3
    assert response["usage"]["completion_tokens"] == 24


async def test_allowed_tokens_are_kept(paced_engine: Engine) -> None:
    response = await run(
        paced_engine, "allowed", fresh(500, 5), allowed_token_ids=[1000, 1001], return_token_ids=True
    )
    assert set(response["choices"][0]["token_ids"]) == {1000, 1001}


async def test_logprobs(paced_engine: Engine) -> None:
    plain, scored = await asyncio.gather(
        run(paced_engine, "plain", "Say a word.", CHAT),
        run(paced_engine, "scored", "Say a word.", CHAT, logprobs=True, top_logprobs=3),
    )
    choice = scored["choices"][0]
    assert choice["message"] == plain["choices"][0]["message"]
    assert plain["choices"][0]["logprobs"] is None
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    for token in tokens:
        assert [top["logprob"] for top in token["top_logprobs"]] == sorted(
            (top["logprob"] for top in token["top_logprobs"]), reverse=True
        )
        assert token["top_logprobs"][0]["token"] == token["token"]
        assert len({top["token"] for top in token["top_logprobs"]}) == 3


async def test_logprobs_of_a_prompt(paced_engine: Engine) -> None:
    prompt = fresh(510, 12)
    response = await run(paced_engine, "echo", prompt, prompt_logprobs=2)
    logprobs = response["choices"][0]["prompt_logprobs"]
    assert logprobs[0] is None
    assert [str(token) in at for token, at in zip(prompt[1:], logprobs[1:], strict=True)] == [True] * 11


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["pump", "valve"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}


async def test_json_follows_its_schema(paced_engine: Engine) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "part", "schema": SCHEMA}}
    responses = await asyncio.gather(
        *(
            run(paced_engine, f"json-{n}", f"Part {n}?", CHAT, response_format=schema, max_tokens=1000)
            for n in range(6)
        )
    )
    for response in responses:
        choice = response["choices"][0]
        assert choice["finish_reason"] == "stop", choice
        part = json.loads(choice["message"]["content"])
        assert set(part) == {"name", "age", "tags", "kind"}
        assert isinstance(part["age"], int)
        assert part["kind"] in {"pump", "valve"}
    again = await run(paced_engine, "json-again", "Part 0?", CHAT, response_format=schema, max_tokens=1000)
    assert again["choices"][0]["message"] == responses[0]["choices"][0]["message"]


async def test_a_choice_and_a_tool_call(paced_engine: Engine) -> None:
    chosen = await run(paced_engine, "choice", "?", CHAT, structured_outputs={"choice": ["open", "closed"]})
    assert chosen["choices"][0]["message"]["content"] in {"open", "closed"}
    tool = {"type": "function", "function": {"name": "part", "parameters": SCHEMA, "strict": True}}
    called = await run(paced_engine, "tool", "?", CHAT, tools=[tool], tool_choice="required", max_tokens=1000)
    (call,) = called["choices"][0]["message"]["tool_calls"][:1]
    assert set(json.loads(call["function"]["arguments"])) == {"name", "age", "tags", "kind"}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--data-parallel-size=2"], "is one device"),
        (
            ['--speculative-config={"method": "ngram", "num_speculative_tokens": 2}'],
            "no model to speculate with",
        ),
        (["--enable-lora"], "no model to adapt"),
    ],
)
async def test_what_needs_a_model_or_several_devices_is_refused(
    paced_settings: VllmSettings, flags: list[str], why: str
) -> None:
    engine = make_engine(replace(paced_settings, extra_args=tuple(flags)))
    with pytest.raises(EngineStartError, match=why):
        await engine.start()


@pytest.mark.full
async def test_a_users_own_config_and_scheduling_are_kept(paced_settings: VllmSettings) -> None:
    flags = ('--additional-config={"mine": 1}', "--no-async-scheduling", "--block-size=32")
    engine: Any = make_engine(replace(paced_settings, extra_args=flags))
    await engine.start()
    try:
        config = engine._llm.vllm_config
        assert config.additional_config["mine"] == 1
        assert config.scheduler_config.async_scheduling is False
        assert config.cache_config.block_size == 32
        await run(engine, "synchronous", fresh(700, 20), max_tokens=20)
        steps = await Device(engine).steps()
        assert all(given >= end for (given, *_), (_, _, end, *_) in zip(steps[1:], steps, strict=False))
    finally:
        await engine.stop()


@pytest.mark.full
async def test_a_prompt_gets_a_vector(paced_settings: VllmSettings) -> None:
    flags = ("--runner=pooling", "--convert=embed", *paced_settings.extra_args)
    engine = make_engine(replace(paced_settings, tool_call_parser=None, extra_args=flags))
    await engine.start()
    try:

        async def embed(name: str, texts: list[str]) -> Final:
            body = json.dumps({"model": "paced", "input": texts}).encode()
            return await engine.run(EngineRequest(name, EMBEDDINGS, body), lambda chunk: None)

        final = await embed("vectors", ["water", "wheel", "word " * 4000])
        assert final.status == 200, final.body
        vectors = [one["embedding"] for one in json.loads(final.body)["data"]]
        assert [sum(x * x for x in vector) for vector in vectors] == pytest.approx([1.0] * 3, abs=1e-3)
        assert len({tuple(vector) for vector in vectors}) == 3
        again = await embed("again", ["wheel"])
        assert json.loads(again.body)["data"][0]["embedding"] == vectors[1]
    finally:
        await engine.stop()


@pytest.mark.full
async def test_vllms_own_server_is_paced_by_the_same_flags(
    paced_engine: Engine, paced_settings: VllmSettings, tmp_path: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if name not in QUICK_ENV}
    with server_process(paced_settings, env, tmp_path / "log") as url:
        body = {"model": "paced", "prompt": fresh(600, 30), "max_tokens": 30}
        async with httpx.AsyncClient(timeout=60) as client:
            begun = time.monotonic()
            theirs = (await client.post(f"{url}/v1/completions", json=body)).json()
            assert time.monotonic() - begun >= 30 * PACE.base_s
        assert text_of(theirs) == text_of(await run(paced_engine, "same", fresh(600, 30), max_tokens=30))
