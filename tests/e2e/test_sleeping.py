"""``Engine.sleep`` and ``wake`` of each engine."""

from __future__ import annotations

import json

import pytest

from workers.engines.base import Engine, EngineDeadError, EngineRequest
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings

CHAT = "/v1/chat/completions"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def request_to(engine: Engine) -> EngineRequest:
    body = {
        "model": engine.models()[0].name,
        "messages": [{"role": "user", "content": "Say a word"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    return EngineRequest("job_0123456789", CHAT, json.dumps(body).encode())


async def answer_of(engine: Engine) -> str:
    final = await engine.run(request_to(engine), lambda chunk: pytest.fail(str(chunk)))
    assert final.status == 200
    text = json.loads(final.body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def facts_of(engine: Engine) -> tuple[object, ...]:
    models = [(one.name, one.endpoints, one.max_model_len, one.capabilities) for one in engine.models()]
    return models, engine.capacity(), engine.holds_bulk()


async def see_it_sleep(engine: Engine) -> None:
    """It answers the same before and after, and says the same of itself while it sleeps."""
    before, said = await answer_of(engine), facts_of(engine)
    for _ in range(2):
        await engine.sleep()
        await engine.sleep()
        await engine.check()
        assert facts_of(engine) == said
        engine.stats()
        await engine.count(CHAT, request_to(engine).body)
        await engine.wake()
        await engine.wake()
        assert await answer_of(engine) == before


@pytest.fixture(
    params=["simulated", *(pytest.param(one, marks=pytest.mark.full) for one in ("paced", "openai"))]
)
def sleeper(request: pytest.FixtureRequest) -> Engine:
    """Each engine whose processes stay, in turn."""
    made: Engine = request.getfixturevalue(f"{request.param}_engine")
    return made


async def test_sleeps_and_wakes(sleeper: Engine) -> None:
    await see_it_sleep(sleeper)


async def test_an_engine_that_sleeps_runs_nothing(simulated_engine: Engine) -> None:
    await simulated_engine.sleep()
    try:
        with pytest.raises(EngineDeadError) as caught:
            await answer_of(simulated_engine)
        assert not caught.value.reached
    finally:
        await simulated_engine.wake()


@pytest.mark.full
async def test_vllm_on_a_cpu_ends_its_processes_and_starts_them_again(vllm_settings: VllmSettings) -> None:
    engine = make_engine(vllm_settings)
    await engine.start()
    try:
        await see_it_sleep(engine)
        await engine.sleep()
        assert await engine.count(CHAT, request_to(engine).body) is None
    finally:
        await engine.stop()
