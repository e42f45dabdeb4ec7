"""Calls and bulk on their way to vLLM's engine core, on the paced engine."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from tests.support import eventually
from workers.engines.base import EngineRequest, Final
from workers.engines.vllm.lane_policy import BULK
from workers.engines.vllm.rendering import BULK_AT_ONCE

CHAT = "/v1/chat/completions"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def start(engine: Any, name: str, priority: int, words: int = 1) -> asyncio.Task[Final]:
    text = " ".join([f"Hello, {name}."] * words)
    body = {"model": "paced", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    request = EngineRequest(name, CHAT, json.dumps(body).encode(), priority=priority)
    return asyncio.create_task(engine.run(request, lambda chunk: None))


@pytest.mark.parametrize("words", [1, 1000])
async def test_a_call_passes_a_burst_of_bulk(
    paced_engine: Any, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """A short one does not even wait for the renderer's thread."""
    llm, way, added = paced_engine._llm, paced_engine._front.way, []
    renderer, add, go = llm.renderer._executor, llm.add_request, threading.Event()

    async def add_request(request_id: str, *args: Any, **kwargs: Any) -> Any:
        added.append(request_id.removeprefix("chatcmpl-"))
        return await add(request_id, *args, **kwargs)

    monkeypatch.setattr(llm, "add_request", add_request)
    held = [renderer.submit(go.wait, 120) for _ in range(renderer._max_workers)]
    try:
        await eventually(lambda: all(one.running() for one in held))
        bulk = [start(paced_engine, f"bulk-{n}", BULK) for n in range(8)]
        queued = renderer._inner._work
        await eventually(lambda: len(queued) == BULK_AT_ONCE)
        call = start(paced_engine, "call", 0, words)
        await eventually(lambda: "call" in added if words == 1 else len(queued) == BULK_AT_ONCE + 1)
        bulk[1].cancel()  # has a place
        bulk[4].cancel()  # waits for one
        await asyncio.wait([bulk[1], bulk[4]])
    finally:
        go.set()
    answers = await asyncio.gather(call, *bulk, return_exceptions=True)
    ended = [answer.status if isinstance(answer, Final) else type(answer) for answer in answers]
    gone = asyncio.CancelledError
    assert ended == [200, 200, gone, 200, 200, gone, 200, 200, 200]
    assert added == ["call", *(f"bulk-{n}" for n in (0, 2, 3, 5, 6, 7))]
    assert way._free._value == BULK_AT_ONCE
