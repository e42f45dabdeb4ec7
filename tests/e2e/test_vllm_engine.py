"""What only the in-process vLLM engine has: its start, its death, its embeddings."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.facts import EnginePriority
from jobs.lanes import Lane
from jobs.stream_chunks import Chunk
from tests.support import eventually
from workers.engines.base import Engine, EngineDeadError, EngineRequest, EngineStartError
from workers.engines.factory import make_engine
from workers.engines.settings import VllmSettings
from workers.engines.vllm import rendering
from workers.engines.vllm.engine import VllmEngine

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
RERANK, SCORE, POOLING = "/v1/rerank", "/v1/score", "/v1/pooling"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def engine_cores() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "EngineCore" in child.name()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_args": ("--no-such-flag",)}, "no-such-flag"),
        ({"model": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"dtype": "float7"}, "float7"),
        ({"max_model_len": 10**7}, "max_model_len"),
        pytest.param(
            {"kv_cache_memory_bytes": 1 << 50},
            r"^vLLM did not start: ValueError: Available memory on node.*\n  Less memory: a smaller KV cache",
            marks=pytest.mark.full,
        ),
    ],
)
async def test_start_errors_are_one_clear_message(
    vllm_settings: VllmSettings, change: dict[str, Any], message: str
) -> None:
    before = engine_cores()
    engine = make_engine(dataclasses.replace(vllm_settings, **change))
    with pytest.raises(EngineStartError, match=message):
        await engine.start()
    await engine.stop()
    assert engine_cores() == before


async def test_generating_model_has_no_embeddings(vllm_engine: Engine) -> None:
    (model,) = vllm_engine.models()
    assert EMBEDDINGS not in model.endpoints
    final = await vllm_engine.run(EngineRequest("job_1", EMBEDDINGS, b'{"input":"x"}'), lambda _: None)
    assert final.status == 400
    assert json.loads(final.body)["error"]["code"] == "unsupported"


async def test_embedding_model_and_the_defaults_of_vllm_serve(
    vllm_settings: VllmSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    def defaults(_: type[EngineArgs], __: int) -> tuple[dict[UsageContext, int], dict[UsageContext, int]]:
        return {UsageContext.OPENAI_API_SERVER: 1024}, {UsageContext.OPENAI_API_SERVER: 9}

    monkeypatch.setattr(EngineArgs, "get_batch_defaults", classmethod(defaults))
    settings = dataclasses.replace(
        vllm_settings, runner="pooling", convert="embed", tool_call_parser=None, max_num_seqs=None
    )
    before = engine_cores()
    engine = make_engine(settings)
    await engine.start()
    try:
        assert len(engine_cores() - before) == 1
        assert engine.capacity() == 9
        assert engine.priority() is EnginePriority.WORKS
        embeds = (EMBEDDINGS, RERANK, SCORE, POOLING)  # and compares texts by their vectors
        assert engine.models()[0].endpoints == (*embeds, TOKENIZE, DETOKENIZE)
        body = json.dumps({"model": "tiny-random", "input": ["one", "two"]}).encode()
        final = await engine.run(EngineRequest("job_9", EMBEDDINGS, body), lambda _: None)
        answer = json.loads(final.body)
        assert answer["id"].endswith("-job_9")
        assert [len(item["embedding"]) for item in answer["data"]] == [256, 256]
        assert final.usage is not None
        assert final.usage.prompt_tokens == answer["usage"]["prompt_tokens"] > 0
    finally:
        await engine.stop()
    await eventually(lambda: engine_cores() == before)  # it was killed, and the system takes a moment


def cores_of(engine: Engine) -> set[int]:
    """Return the engine's own processes: other tests' engines may live, too."""
    assert isinstance(engine, VllmEngine)
    assert engine._leash is not None
    return engine_cores() & engine._leash._held


async def test_a_count_is_rendered_in_the_order_of_its_lane(
    vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = vllm_engine._llm.renderer._executor._inner  # type: ignore[attr-defined]
    submit, priorities = executor.submit, []

    def submitted(*args: Any, **kwargs: Any) -> Any:
        priorities.append(rendering._priority.get())
        return submit(*args, **kwargs)

    monkeypatch.setattr(executor, "submit", submitted)
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for endpoint, fields in (("/v1/completions", {"prompt": "hi"}), (CHAT, chat)):
        priorities.clear()
        body = json.dumps(fields | {"model": vllm_engine.models()[0].name}).encode()
        assert await vllm_engine.count(endpoint, body)
        assert set(priorities) == {0}
        priorities.clear()
        assert await vllm_engine.count(endpoint, body, Lane.BULK.engine_priority)
        assert set(priorities) == {Lane.BULK.engine_priority}


async def test_dead_engine_releases_its_jobs_and_can_be_started_again(vllm_engine: Engine) -> None:
    """The engine of all other tests: they go on with the engine process that is started here."""
    engine = vllm_engine
    (core,) = cores_of(engine)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000, "ignore_eos": True}
    chunks: list[Chunk] = []
    requests = [
        EngineRequest(
            f"job_{place}", CHAT, json.dumps({**body, "n": 1 + place // 2}).encode(), stream=bool(place % 2)
        )
        for place in range(4)
    ]
    tasks = [asyncio.create_task(engine.run(request, chunks.append)) for request in requests]
    await eventually(lambda: chunks and engine.stats().running == 6)
    psutil.Process(core).kill()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [EngineDeadError] * 4
    with pytest.raises(EngineDeadError):
        await engine.check()
    await engine.stop()
    assert core not in engine_cores()
    await engine.start()
    short = EngineRequest("job_5", CHAT, json.dumps({**body, "max_tokens": 2}).encode())
    assert (await engine.run(short, lambda _: None)).status == 200
    (again,) = cores_of(engine)
    assert again != core


@pytest.mark.parametrize("module", ["engine", "front"])
async def test_importing_the_module_is_cheap(module: str) -> None:
    source = Path(__file__).parents[2] / "workers/engines/vllm" / f"{module}.py"
    tops = [line for line in source.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in tops if line.split()[1].split(".")[0] in {"vllm", "torch"}]
