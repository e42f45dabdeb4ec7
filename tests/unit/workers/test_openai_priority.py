"""The engine ``openai`` and priorities, before servers that answer as the well-known ones do."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
from structlog.testing import capture_logs

from jobs.facts import EnginePriority
from tests.upstream import Answer, Upstream
from workers.engines.base import EngineDeadError, EngineRequest, Final
from workers.engines.openai import priority as module
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.settings import OpenAISettings

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY = {"model": "upstream", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


Kind: TypeAlias = Callable[[dict[str, Any]], Answer]


def answer(status: int, body: Any) -> Answer:
    return status, "application/json", json.dumps(body).encode()


def told(_: dict[str, Any]) -> Answer:
    return answer(200, {"object": "chat.completion", "choices": []})


def pydantic(body: dict[str, Any]) -> Answer:
    """vLLM, as of 0.32: its scheduler's policy does not show in an answer."""
    if isinstance(body.get("priority", 0), int):
        return told(body)
    words = f"{{'type': 'int_parsing', 'loc': ('body', 'priority'), 'input': '{body['priority']}'}}"
    return answer(
        400, {"error": {"message": f"1 validation error:\n  {words}", "type": "Bad Request", "code": 400}}
    )


def vllm_of_old(body: dict[str, Any]) -> Answer:
    if body.get("priority"):
        message = "Got priority 40 but Priority scheduling is not enabled."
        return answer(400, {"object": "error", "message": message, "code": 400})
    return pydantic(body)


def sglang_that_aborts(body: dict[str, Any]) -> Answer:
    if isinstance(body.get("priority"), int):
        message = "Using priority is disabled for this server. Please send a new request without a priority."
        return answer(503, {"error": {"message": message, "code": 503}})
    return pydantic(body)


def openai(body: dict[str, Any]) -> Answer:
    if "priority" in body:
        message = "Unrecognized request argument supplied: priority"
        return answer(400, {"error": {"message": message, "type": "invalid_request_error", "param": None}})
    return told(body)


def mistral(body: dict[str, Any]) -> Answer:
    if "priority" in body:
        return answer(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "priority"]}]})
    return told(body)


def another_word(_: dict[str, Any]) -> Answer:
    return answer(400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})


VLLM = "/server_info?config_format=json"
SGLANG = "/get_server_info"
SORTS = {"enable_priority_scheduling": True, "schedule_low_priority_values_first": True}


def policy(name: str) -> dict[str, Any]:
    return {"vllm_config": {"scheduler_config": {"policy": name}}}


class Scene(Upstream):
    """A server of some kind, and an engine before it. ``bodies``: of the requests after the engine's start."""

    def __init__(self, kind: Kind, facts: dict[str, Any]) -> None:
        self.kind, self.bodies = kind, list[dict[str, Any]]()
        super().__init__(self._take)
        self.probe = kind
        self.others = {path: partial(answer, 404, {}) for path in (VLLM, SGLANG)}
        self.others |= {path: partial(answer, 200, told) for path, told in facts.items()}
        self.engine = OpenAIEngine(OpenAISettings(self.url))

    def _take(self, body: dict[str, Any]) -> Answer:
        self.bodies.append(body)
        return self.kind(body)

    async def run(self, priority: int, /, **fields: Any) -> Final:
        raw = json.dumps(BODY | fields).encode()
        return await self.engine.run(EngineRequest("job", CHAT, raw, priority=priority), lambda _: None)


@asynccontextmanager
async def started(kind: Kind, facts: dict[str, Any] | None = None) -> AsyncIterator[Scene]:
    with Scene(kind, facts or {}) as scene:
        try:
            await scene.engine.start()
            yield scene
        finally:
            await scene.engine.stop()


@pytest.mark.parametrize(
    ("kind", "facts", "state", "sent"),
    [
        pytest.param(pydantic, {}, EnginePriority.UNKNOWN, 40, id="vLLM"),
        pytest.param(pydantic, {VLLM: policy("priority")}, EnginePriority.WORKS, 40, id="vLLM says priority"),
        pytest.param(pydantic, {VLLM: policy("fcfs")}, EnginePriority.IGNORED, 40, id="vLLM says fcfs"),
        pytest.param(pydantic, {VLLM: [1]}, EnginePriority.UNKNOWN, 40, id="other facts"),
        pytest.param(vllm_of_old, {}, EnginePriority.REFUSED, None, id="vLLM of old, fcfs"),
        pytest.param(pydantic, {SGLANG: SORTS}, EnginePriority.WORKS, 40, id="SGLang, smallest first"),
        pytest.param(
            pydantic,
            {SGLANG: SORTS | {"schedule_low_priority_values_first": False}},
            EnginePriority.WORKS,
            -40,
            id="SGLang, largest first",
        ),
        pytest.param(
            pydantic,
            {SGLANG: SORTS | {"enable_priority_scheduling": False}},
            EnginePriority.IGNORED,
            40,
            id="SGLang without",
        ),
        pytest.param(sglang_that_aborts, {}, EnginePriority.REFUSED, None, id="SGLang that aborts"),
        pytest.param(openai, {}, EnginePriority.REFUSED, None, id="OpenAI"),
        pytest.param(mistral, {}, EnginePriority.REFUSED, None, id="Mistral"),
        pytest.param(told, {}, EnginePriority.IGNORED, 40, id="llama.cpp"),
        pytest.param(another_word, {}, EnginePriority.UNKNOWN, 40, id="it refuses something else"),
    ],
)
async def test_the_start_learns_what_a_server_does_with_priorities(
    kind: Kind, facts: dict[str, Any], state: EnginePriority, sent: int | None
) -> None:
    async with started(kind, facts) as scene:
        assert scene.engine.priority() is state
        scene.kind = told
        await scene.run(40)
        await scene.run(40, priority=-1000, user="who wants to be first")
        assert [body.get("priority") for body in scene.bodies] == [sent, sent]


async def test_a_server_that_is_slow_or_broken_does_not_hold_the_start_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PROBE_S", 0.2)
    free = threading.Event()

    def slow(body: dict[str, Any]) -> Answer:
        free.wait(60)
        return told(body)

    async with started(slow) as scene:
        assert scene.engine.priority() is EnginePriority.UNKNOWN
        free.set()
    monkeypatch.setattr(module, "PROBE_S", 20.0)
    async with started(lambda _: (200, "text/event-stream", b"data: {")) as scene:
        assert scene.engine.priority() is EnginePriority.IGNORED


@pytest.mark.parametrize("kind", [openai, mistral, vllm_of_old, sglang_that_aborts])
async def test_a_server_that_begins_to_refuse_priorities_costs_no_request(kind: Kind) -> None:
    async with started(pydantic) as scene:
        scene.kind = kind
        with capture_logs() as logs:
            for _ in range(2):
                assert (await scene.run(40)).status == 200
        assert [body.get("priority") for body in scene.bodies] == [40, None, None]
        assert scene.engine.priority() is EnginePriority.REFUSED
        assert [line["event"] for line in logs] == ["engine_priority_without_effect"]


async def test_a_refusal_that_quotes_the_clients_words_is_no_refusal_of_priorities() -> None:
    async with started(pydantic) as scene:
        scene.kind = lambda body: answer(400, {"error": {"message": f"bad prompt: {body['messages']}"}})
        final = await scene.run(40, messages=[{"role": "user", "content": "what is my priority?"}])
        assert (final.status, scene.engine.priority()) == (400, EnginePriority.UNKNOWN)
        scene.kind = told
        await scene.run(40)
        assert scene.bodies[-1]["priority"] == 40


async def test_a_request_that_makes_way_for_another_is_tried_again_later() -> None:
    async with started(pydantic) as scene:
        message = "The request is aborted by a higher priority request."
        scene.kind = lambda _: answer(503, {"error": {"message": message}})
        with pytest.raises(EngineDeadError, match="status 503"):
            await scene.run(40)
        assert len(scene.bodies) == 1
