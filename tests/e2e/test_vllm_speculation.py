"""Speculative decoding changes how fast tokens come, and no token; and no request ends the engine."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from jobs.stream_chunks import Chunk, Text
from workers.devices.tiny_models import build_tiny_model
from workers.engines.base import Engine, EngineRequest
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings
from workers.engines.vllm.probe import render
from workers.engines.vllm.worker_hooks import WorkerHooks

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

PROMPTS = (
    "the river is a stream of water and the river is a stream of water and the river is",
    "1 2 3 1 2 3 1 2",
    "Once upon a time",
)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="session",
    params=[pytest.param(name, marks=pytest.mark.full) for name in ("ngram", "itself", "nano")],
)
async def guessing(
    request: pytest.FixtureRequest, vllm_settings: VllmSettings, tiny_model_path: Path
) -> AsyncIterator[Engine]:
    """An engine that speculates by n-gram, with the model itself as its draft model, and with a worse one."""
    drafts = {"itself": f"{tiny_model_path}:3", "nano": str(build_tiny_model(tiny_model_path.parent, "nano"))}
    made = replace(vllm_settings, speculation=drafts.get(request.param, "ngram:4"))
    engine = make_engine(made)
    await engine.start()
    yield engine
    await engine.stop()


async def ask(engine: Engine, prompt: str, job: str = "job_1", **more: Any) -> str:
    body = {"model": "tiny-random", "prompt": prompt, "max_tokens": 40, "temperature": 0, **more}
    final = await engine.run(EngineRequest(job, "/v1/completions", json.dumps(body).encode()), lambda _: None)
    assert final.status == 200, final.body
    text: str = json.loads(final.body)["choices"][0]["text"]
    return text


async def test_a_greedy_text_is_the_same(guessing: Engine, vllm_engine: Engine) -> None:
    for prompt in PROMPTS:
        assert await ask(guessing, prompt) == await ask(vllm_engine, prompt)


async def test_a_compact_stream_has_several_tokens_in_a_chunk(guessing: Engine) -> None:
    method = guessing.models()[0].capabilities.speculation
    prompt, chunks = PROMPTS[0], list[Chunk]()
    # One word over and over, which n-gram guesses, too.
    body = {"model": "tiny-random", "prompt": prompt, "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    body |= {"structured_outputs": {"regex": "( the)+"}} if method == "ngram" else {}
    request = EngineRequest("job_1", "/v1/completions", json.dumps(body).encode(), stream=True)
    before = guessing.stats().speculation
    final = await guessing.run(request, chunks.append)
    assert final.usage is not None
    text = json.loads(final.body)["choices"][0]["text"]
    assert "".join(json.loads(frame)["choices"][0]["text"] for frame in render(chunks)) == text
    after = guessing.stats().speculation
    assert before is not None
    assert after is not None
    assert after.drafts > before.drafts
    assert after.drafted > before.drafted
    gained = after.accepted - before.accepted
    if gained > 20:  # of the model itself nearly all guesses are right
        assert sum(isinstance(chunk, Text) for chunk in chunks) < final.usage.completion_tokens - gained // 2


async def test_guesses_are_accepted(guessing: Engine) -> None:
    await ask(guessing, PROMPTS[0])
    stats = guessing.stats().speculation
    assert stats is not None
    assert 0 < stats.accepted <= stats.drafted


@pytest.mark.parametrize("more", [{"top_k": 1}, {"top_k": 5}, {"top_k": 5, "top_p": 0.9}, {"min_tokens": 3}])
async def test_a_sampled_request_does_not_end_the_engine(guessing: Engine, more: dict[str, Any]) -> None:
    """With `top_k`, a step without a guess took the maximum of nothing."""
    sampled = [ask(guessing, PROMPTS[n % 3], f"job_{n}", temperature=1, seed=n, **more) for n in range(6)]
    await asyncio.gather(*sampled)
    await guessing.check()


async def test_only_allowed_tokens_are_drawn(guessing: Engine) -> None:
    allowed = [1243, 3108, 386, 3869]
    body = {
        "model": "tiny-random",
        "prompt": PROMPTS[0],
        "max_tokens": 40,
        "temperature": 1,
        "ignore_eos": True,
    }
    sent = json.dumps({**body, "allowed_token_ids": allowed, "return_token_ids": True}).encode()
    final = await guessing.run(EngineRequest("job_1", "/v1/completions", sent), lambda _: None)
    assert set(json.loads(final.body)["choices"][0]["token_ids"]) <= set(allowed)


async def test_the_best_token_alone_is_the_greedy_text(guessing: Engine) -> None:
    for prompt in PROMPTS:
        assert await ask(guessing, prompt, temperature=1, top_k=1) == await ask(guessing, prompt)


async def test_the_mended_functions_do_what_vllms_are_meant_to() -> None:
    """What the workers of a speculating engine run: vLLM's end at no guess, and lose sampling options on a CPU."""
    import torch
    from vllm.v1.sample import rejection_sampler
    from vllm.v1.sample.ops import topk_topp_sampler

    assert WorkerHooks().penstock_mend_sampling()
    assert WorkerHooks().penstock_mend_sampling()  # once is enough
    top_k = topk_topp_sampler.apply_top_k_only
    assert top_k(torch.empty(0, 9), torch.empty(0, dtype=torch.long)).shape == (0, 9)
    best = top_k(torch.arange(9.0).reshape(1, 9), torch.tensor([2]))
    assert [value for value in best[0].tolist() if value >= 0] == [7.0, 8.0]
    options, ends = torch.tensor([0.5, 0.0, 0.8]), torch.tensor([2, 3, 3], dtype=torch.int32)
    wide = rejection_sampler.expand_batch_to_tokens(options, ends, 3, replace_from=0, replace_to=1)
    assert wide.tolist() == [0.5, 0.5, 1.0]


async def test_a_sampled_text_follows_the_temperature(guessing: Engine, vllm_engine: Engine) -> None:
    """As many second tokens are the likeliest after their first one as without speculation."""
    body = {"model": "tiny-random", "prompt": PROMPTS[0], "max_tokens": 3, "temperature": 1, "n": 16}
    sent = json.dumps({**body, "return_token_ids": True}).encode()

    async def likeliest(engine: Engine) -> float:
        after: dict[int, Counter[int]] = defaultdict(Counter)
        for turn in range(20):
            final = await engine.run(EngineRequest(f"job_{turn}", "/v1/completions", sent), lambda _: None)
            for choice in json.loads(final.body)["choices"]:
                ids: list[int] = [*choice["token_ids"], -1]
                after[ids[0]][ids[1]] += 1
        commonest = sum(max(seconds.values()) for seconds in after.values())
        return commonest / sum(seconds.total() for seconds in after.values())

    assert abs(await likeliest(guessing) - await likeliest(vllm_engine)) < 0.15
