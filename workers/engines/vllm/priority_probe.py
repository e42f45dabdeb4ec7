"""Seeing at the engine's start whether a request's priority reaches vLLM's scheduler, and whether that follows it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, POOLING
from jobs.facts import EnginePriority
from workers.engines.base import Emit, EngineRequest, Final

_BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1},
    COMPLETIONS: {"prompt": "Hello", "max_tokens": 1},
    EMBEDDINGS: {"input": "Hello"},
    POOLING: {"input": "Hello"},
}
_PRIORITY = 7
"""One that no lane has, and that is not vLLM's default."""


async def seen_priority(
    llm: Any, run: Callable[[EngineRequest, Emit], Awaitable[Final]], endpoints: Iterable[str]
) -> EnginePriority:
    """Run a request of one token on each endpoint, and see the priority with which it enters the engine process.

    Args:
        llm: vLLM's engine client, without any other request.
        run: runs a request on it.

    Returns:
        Whether priorities take effect; ``unknown`` if no request entered.
    """
    if llm.vllm_config.scheduler_config.policy != "priority":
        return EnginePriority.IGNORED
    core, seen = llm.engine_core, set()
    send = core.add_request_async

    async def watch(request: Any) -> None:
        seen.add(request.priority)
        await send(request)

    core.add_request_async = watch
    try:
        for endpoint in endpoints:
            if (body := _BODIES.get(endpoint)) is not None:
                raw = json.dumps(body).encode()
                await run(EngineRequest("priority-probe", endpoint, raw, priority=_PRIORITY), _ignore)
    finally:
        del core.add_request_async
    if not seen:
        return EnginePriority.UNKNOWN
    return EnginePriority.WORKS if seen == {_PRIORITY} else EnginePriority.IGNORED


def _ignore(_: object) -> None:
    pass
