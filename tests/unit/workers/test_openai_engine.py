"""The engine ``openai`` before a real server: when a silent server counts as gone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.support import eventually
from tests.upstream import Answer, Upstream
from workers.engines.base import EngineDeadError, EngineRequest, Final
from workers.engines.openai import engine as module
from workers.engines.openai.engine import OpenAIEngine
from workers.engines.settings import OpenAISettings

pytestmark = pytest.mark.asyncio

BODY = json.dumps({"model": "upstream", "prompt": "hi"}).encode()
TOLD = json.dumps({"object": "text_completion", "choices": []}).encode()


class Serial(Upstream):
    """Serves one request at a time: while it computes, even the list of its models waits."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = self.lists = 0
        super().__init__(self._answer)
        self.well = self.models

    def be_silent(self) -> None:
        def late() -> Answer:
            self.lists += 1
            self.go.wait(60)
            return self.well()

        self.models = late

    def _answer(self, _: dict[str, Any]) -> Answer:
        self.asked += 1
        self.go.wait(60)
        return 200, "application/json", TOLD


class Scene:
    """An engine before a server, with times as short as a test needs."""

    def __init__(self, upstream: Serial, engine: OpenAIEngine) -> None:
        self.upstream, self.engine = upstream, engine

    async def request(self) -> asyncio.Task[Final]:
        """Send a request, and return when it is there."""
        asked = self.upstream.asked
        request = EngineRequest("job", "/v1/completions", BODY)
        task = asyncio.create_task(self.engine.run(request, lambda _: None))
        await eventually(lambda: self.upstream.asked > asked)
        return task


@pytest_asyncio.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(module, "_SILENT_S", 0.2)
    with Serial() as upstream:
        settings = OpenAISettings(upstream.url, start_timeout_s=20.0, read_timeout_s=1.5)
        engine = OpenAIEngine(settings)
        try:
            await engine.start()
            engine._settings = replace(settings, start_timeout_s=0.5)  # of the looks that follow
            yield Scene(upstream, engine)
        finally:
            upstream.go.set()
            await engine.stop()


async def test_a_start_that_is_cancelled_leaves_nothing_open() -> None:
    with Serial() as upstream:
        upstream.be_silent()
        engine = OpenAIEngine(OpenAISettings(upstream.url))
        start = asyncio.create_task(engine.start())
        await eventually(lambda: upstream.lists == 1)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        upstream.go.set()
        with pytest.raises(EngineDeadError, match="the engine is stopped"):
            await engine.run(EngineRequest("job", "/v1/completions", BODY), lambda _: None)


async def test_a_server_that_serves_one_request_at_a_time_is_alive(scene: Scene) -> None:
    run = await scene.request()
    scene.upstream.be_silent()
    await scene.engine.check()  # it lasts longer than an idle server may be silent
    scene.upstream.go.set()
    assert (await run).status == 200
    await scene.engine.check()


async def test_a_server_that_is_silent_without_a_request_is_gone(scene: Scene) -> None:
    scene.upstream.be_silent()
    with pytest.raises(EngineDeadError, match="cannot be reached"):
        await scene.engine.check()


async def test_a_server_that_is_silent_beside_a_request_is_gone_after_the_read_timeout(scene: Scene) -> None:
    first = await scene.request()
    scene.upstream.be_silent()
    with pytest.raises(EngineDeadError):
        await first
    second = await scene.request()
    with pytest.raises(EngineDeadError):
        await scene.engine.check()
    assert not second.done()
    with pytest.raises(EngineDeadError):
        await second


async def test_a_server_that_says_it_is_away_is_gone_though_it_has_a_request(scene: Scene) -> None:
    run = await scene.request()
    scene.upstream.models = lambda: (503, "text/plain", b"loading")
    with pytest.raises(EngineDeadError, match="503"):
        await scene.engine.check()
    scene.upstream.go.set()
    assert (await run).status == 200
