"""Priorities inside a real vLLM: a call overtakes bulk that waits in the engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from jobs.facts import EnginePriority
from jobs.lanes import Lane
from tests.e2e.vllm_servers import Frontend
from tests.support import eventually
from workers.engines.base import Engine, EngineRequest
from workers.engines.factory import make_engine
from workers.engines.settings import OpenAISettings, VllmSettings
from workers.engines.vllm.priority_probe import seen_priority

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CALL, BULK = Lane.REALTIME.engine_priority, Lane.BULK.engine_priority

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def request(name: str, priority: int, tokens: int, /, **fields: Any) -> EngineRequest:
    body = {
        "messages": [{"role": "user", "content": name}],
        "max_tokens": tokens,
        "ignore_eos": True,
        **fields,
    }
    return EngineRequest(name, CHAT, json.dumps(body).encode(), stream=True, priority=priority)


@pytest.mark.parametrize("through", ["vllm", "openai"])
async def test_a_call_overtakes_the_bulk_that_waits_in_the_engine(
    vllm_engine: Engine, openai_engine: Engine, through: str
) -> None:
    """Twice the bulk that fits, whose bodies ask to go first, and then a call: no other bulk begins before it."""
    engine = vllm_engine if through == "vllm" else openai_engine
    slots = vllm_engine.capacity()
    first: list[str] = []

    def run(name: str, priority: int, tokens: int, /, **fields: Any) -> asyncio.Task[Any]:
        def emit(_: object) -> None:
            if name not in first:
                first.append(name)

        return asyncio.create_task(engine.run(request(name, priority, tokens, **fields), emit))

    def all_in() -> bool:
        stats = vllm_engine.stats()
        return bool(stats.waiting) and (stats.running or 0) + stats.waiting == 2 * slots

    bulk = [run(f"bulk-{n}", BULK, 600 + 20 * n, priority=-1000) for n in range(slots)]
    await eventually(lambda: first)
    bulk += [run(f"bulk-{slots + n}", BULK, 4, priority=-1000) for n in range(slots)]
    await eventually(lambda: all_in() and len(first) >= (vllm_engine.stats().running or 0))
    begun = len(first)
    assert begun <= slots
    ends = await asyncio.gather(run("call", CALL, 4), *bulk)
    assert {end.status for end in ends} == {200}
    assert first[begun] == "call"


@pytest.mark.parametrize("endpoint", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("client", [{}, {"priority": -1000}, {"priority": "first"}])
async def test_our_priority_reaches_vllms_scheduler_in_place_of_the_clients(
    vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch, endpoint: str, client: dict[str, Any]
) -> None:
    core = vllm_engine._llm.engine_core  # type: ignore[attr-defined]
    sent, send = [], core.add_request_async

    async def watch(one: Any) -> None:
        sent.append(one.priority)
        await send(one)

    monkeypatch.setattr(core, "add_request_async", watch)
    prompt: dict[str, Any] = {
        CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
        COMPLETIONS: {"prompt": ["one", "two"], "max_tokens": 1},
        RESPONSES: {"input": "hi", "max_output_tokens": 1},
    }[endpoint]
    raw = json.dumps(prompt | client).encode()
    final = await vllm_engine.run(EngineRequest("job_1", endpoint, raw, priority=BULK), lambda _: None)
    assert final.status == 200
    assert set(sent) == {BULK}


async def test_the_probe_sees_what_the_running_engine_does(
    vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vllm_engine.priority() is EnginePriority.WORKS
    llm: Any = vllm_engine._llm  # type: ignore[attr-defined]
    before = llm.engine_core.add_request_async

    async def drops(one: EngineRequest, emit: Any) -> Any:
        return await vllm_engine.run(msgspec.structs.replace(one, priority=0), emit)

    assert await seen_priority(llm, vllm_engine.run, (CHAT, COMPLETIONS)) is EnginePriority.WORKS
    assert await seen_priority(llm, drops, (CHAT,)) is EnginePriority.IGNORED
    assert await seen_priority(llm, vllm_engine.run, ()) is EnginePriority.UNKNOWN
    monkeypatch.setattr(llm.vllm_config.scheduler_config, "policy", "fcfs")
    assert await seen_priority(llm, vllm_engine.run, (CHAT,)) is EnginePriority.IGNORED
    assert llm.engine_core.add_request_async == before


@pytest.mark.parametrize(
    ("dev", "policy", "state"),
    [
        (False, "priority", EnginePriority.UNKNOWN),
        (True, "priority", EnginePriority.WORKS),
        (True, "fcfs", EnginePriority.IGNORED),
    ],
)
async def test_vllms_own_server_says_its_policy_in_dev_mode_alone(
    vllm_engine: Engine,
    vllm_settings: VllmSettings,
    monkeypatch: pytest.MonkeyPatch,
    dev: bool,
    policy: str,
    state: EnginePriority,
) -> None:
    from vllm import envs

    llm: Any = vllm_engine._llm  # type: ignore[attr-defined]
    monkeypatch.setitem(
        vars(envs), "VLLM_SERVER_DEV_MODE", dev
    )  # the variable itself was read at the engine's start
    monkeypatch.setattr(llm.vllm_config.scheduler_config, "policy", policy)
    async with Frontend(vllm_engine, vllm_settings) as frontend:
        engine = make_engine(OpenAISettings(frontend.url))
        try:
            await engine.start()
            assert engine.priority() is state
        finally:
            await engine.stop()
