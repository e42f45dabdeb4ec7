"""Tenants and vLLM's prefix cache: a prefix is found again within a tenant, and not by another; answers stay the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from jobs.stream_chunks import Chunk
from workers.engines.base import Engine, EngineRequest
from workers.engines.salt import salt_of

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
NUMBERS = itertools.count()

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


def hits(engine: Any) -> float:
    """Return how many prompt tokens vLLM found in its prefix cache so far.

    From the engine's own counter: another engine of this process takes the metrics of earlier ones out of the registry.
    """
    loggers = engine._llm.logger_manager.stat_loggers
    (counters,) = [found for one in loggers if (found := getattr(one, "counter_prefix_cache_hits", None))]
    return sum(counter._value.get() for counter in counters.values())


@pytest_asyncio.fixture(loop_scope="session")
async def salts(vllm_engine: Any) -> AsyncIterator[list[str | None]]:
    """The salts of the requests that enter the engine process."""
    core, seen = vllm_engine._llm.engine_core, list[str | None]()
    send = core.add_request_async

    async def watch(request: Any) -> None:
        seen.append(request.cache_salt)
        await send(request)

    core.add_request_async = watch
    yield seen
    del core.add_request_async


async def run(
    engine: Engine, path: str, prompt: str, tenant: str | None, *, stream: bool = False, **fields: Any
) -> Any:
    """Run a request; return its answer without what differs from run to run."""
    asked = {"prompt": prompt} if path == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
    body = {**asked, "max_tokens": 4, "temperature": 0, "ignore_eos": True, **fields}
    chunks: list[Chunk] = []
    request = EngineRequest(
        f"salt-{next(NUMBERS)}", path, json.dumps(body).encode(), stream=stream, tenant=tenant
    )
    final = await engine.run(request, chunks.append)
    assert final.status == 200, final.body
    assert bool(chunks) is stream
    return {name: value for name, value in json.loads(final.body).items() if name not in {"id", "created"}}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "compact"])
@pytest.mark.parametrize("through", ["vllm", "openai"])
async def test_a_prefix_is_found_by_its_tenant_alone(
    vllm_engine: Any,
    openai_engine: Engine,
    salts: list[str | None],
    path: str,
    stream: bool,
    through: str,
) -> None:
    engine = vllm_engine if through == "vllm" else openai_engine
    prompt = f"{path} {stream} {through}: " + "a secret that both of them ask about. " * 24

    async def found(tenant: str | None, **fields: Any) -> tuple[bool, Any]:
        before = hits(vllm_engine)
        answer = await run(engine, path, prompt, tenant, stream=stream, **fields)
        return hits(vllm_engine) > before, answer

    first, again, bobs, bobs_again, own, free, free_again = [
        await found("alice"),
        await found("alice"),
        await found("bob"),
        await found("bob"),
        await found("alice", cache_salt="mine"),
        await found("default"),
        await found(None),
    ]
    assert [hit for hit, _ in (first, again, bobs, bobs_again, own, free, free_again)] == [
        *(False, True, False, True, False),
        *(False, True),  # without tenants it is as without salts
    ]
    assert salts == ["alice:", "alice:", "bob:", "bob:", salt_of("alice", "mine"), None, None]
    assert all(answer == first[1] for _, answer in (again, bobs, bobs_again, own, free, free_again))
