"""The slots of the in-process engine: how many there are, and that a cancelled request gives its own back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support import eventually
from workers.engines.base import Engine, EngineRequest
from workers.engines.settings import VllmSettings
from workers.engines.vllm.boot import slots

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        ({}, 1),
        ({"data_parallel_size": 3}, 3),
        ({"data_parallel_size": 4, "data_parallel_size_local": 2, "data_parallel_hybrid_lb": True}, 2),
    ],
)
async def test_each_data_parallel_rank_has_its_slots(
    vllm_settings: VllmSettings, parallel: dict[str, Any], ranks: int
) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    args = AsyncEngineArgs(model=vllm_settings.model, max_num_seqs=16, **parallel)
    config = args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    assert slots(config) == 16 * ranks


class Slow:
    """vLLM's client of the engine process, with a pause after each request that it has sent."""

    def __init__(self, client: Any, sent: asyncio.Event) -> None:
        self._client, self._sent = client, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def add_request_async(self, request: Any) -> None:
        await self._client.add_request_async(request)
        self._sent.set()
        await asyncio.sleep(3600)


@pytest.mark.parametrize("kind", ["chat", "n=2", "two prompts", "compact stream", "full stream"])
async def test_a_request_that_is_cancelled_while_vllm_takes_it_leaves_nothing(
    vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    llm = vllm_engine._llm  # type: ignore[attr-defined]
    sent = asyncio.Event()
    monkeypatch.setattr(llm, "engine_core", Slow(llm.engine_core, sent))
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    endpoint, body = {
        "chat": (CHAT, chat),
        "n=2": (CHAT, chat | {"n": 2}),
        "two prompts": (COMPLETIONS, {"prompt": ["one", "two"]}),
        "compact stream": (CHAT, chat),
        "full stream": (CHAT, chat | {"logprobs": True}),
    }[kind]
    whole = json.dumps(body | {"max_tokens": 3500, "ignore_eos": True}).encode()
    request = EngineRequest("job_1", endpoint, whole, stream="stream" in kind)
    task = asyncio.create_task(vllm_engine.run(request, lambda _: None))
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    await nothing_is_left(vllm_engine)


async def test_requests_cancelled_at_any_moment_leave_nothing(vllm_engine: Engine) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3500, "ignore_eos": True}
    whole = json.dumps(body).encode()

    async def one(n: int) -> None:
        request = EngineRequest(f"job_{n}", CHAT, whole, stream=bool(n % 2))
        task = asyncio.create_task(vllm_engine.run(request, lambda _: None))
        for _ in range(n // 2):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.gather(*(one(n) for n in range(64)))
    await nothing_is_left(vllm_engine)


async def nothing_is_left(engine: Engine) -> None:
    """See that neither vLLM's side nor ours knows of any request, and that the slots take new ones."""
    llm, taps = engine._llm, engine._front.compact.taps  # type: ignore[attr-defined]
    outputs = llm.output_processor
    await eventually(lambda: not outputs.has_unfinished_requests(), timeout_s=10)
    assert (outputs.request_states, dict(outputs.external_req_ids), outputs.parent_requests, taps) == (
        {},
        {},
        {},
        {},
    )
    short = json.dumps({"prompt": "one", "max_tokens": 1}).encode()
    final = await engine.run(EngineRequest("job_after", COMPLETIONS, short), lambda _: None)
    assert final.status == 200
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
