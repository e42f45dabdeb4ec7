"""A front of its own for bulk: the same answers, calls never pass it, and its death costs no request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from jobs.lanes import Lane
from jobs.stream_chunks import Chunk
from tests.checkpoints import noisy
from tests.e2e.test_vllm_golden import CHAT, COMPLETIONS, REQUESTS, SAY, merged, normal
from tests.pictures import data_uri, picture, shows
from tests.support import eventually
from workers.devices.tiny_models import TINY_MODELS, build_tiny_model
from workers.engines.base import EngineDeadError, EngineRequest, EngineStartError, Final
from workers.engines.settings import VllmSettings
from workers.engines.vllm.bulk_front import BulkFront
from workers.engines.vllm.engine import VllmEngine
from workers.engines.vllm.probe import render

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]

LONG = {**SAY, "max_tokens": 3500, "ignore_eos": True}
TRIES = 8


class Engine(VllmEngine):
    """A ``vllm`` engine, and requests to it."""

    async def ask(
        self,
        job: str,
        endpoint: str,
        body: dict[str, Any],
        *,
        lane: Lane = Lane.BULK,
        stream: bool = False,
        into: list[Chunk] | None = None,
    ) -> Final:
        raw = json.dumps(
            {"model": self.models()[0].name, "temperature": 0, "max_tokens": 12, **body}
        ).encode()
        request = EngineRequest(job, endpoint, raw, stream=stream, priority=lane.engine_priority)
        chunks: list[Chunk] = [] if into is None else into
        return await self.run(request, chunks.append)

    def begin(self, job: str, lane: Lane, **more: Any) -> asyncio.Task[Final]:
        return asyncio.create_task(self.ask(job, CHAT, {**LONG, **more}, lane=lane))

    @property
    def front(self) -> BulkFront:
        assert self._bulk is not None
        return self._bulk

    def here(self) -> int:
        """Requests of the worker's own front."""
        count: int = self._llm.output_processor.get_num_unfinished_requests()
        return count

    async def decodes(self, *, sequences: int) -> None:
        await eventually(lambda: self.stats().running == sequences)


async def started(settings: VllmSettings, **more: Any) -> Engine:
    engine = Engine(replace(settings, bulk_front=True, **more))
    await engine.start()
    return engine


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(vllm_settings: VllmSettings) -> AsyncIterator[Engine]:
    engine = await started(vllm_settings)
    yield engine
    await engine.stop()


@pytest.mark.parametrize("name", REQUESTS)
async def test_answers_are_the_same(engine: Engine, name: str) -> None:
    endpoint, body = REQUESTS[name]
    ours, theirs = [
        await engine.ask("job_same", endpoint, body, lane=lane) for lane in (Lane.NORMAL, Lane.BULK)
    ]
    assert normal(ours.body.decode()) == normal(theirs.body.decode())
    assert (ours.status, ours.usage) == (theirs.status, theirs.usage)


@pytest.mark.parametrize("name", ["plain", "n=2", "json schema", "tool auto", "completion", "too long"])
async def test_streams_are_the_same(engine: Engine, name: str) -> None:
    """A busy machine joins deltas, and not the same ones in both: only of those without a template of their own."""
    endpoint, body = REQUESTS[name]
    for _ in range(TRIES):
        frames = []
        for lane in (Lane.NORMAL, Lane.BULK):
            chunks: list[Chunk] = []
            final = await engine.ask("job_stream", endpoint, body, lane=lane, stream=True, into=chunks)
            frames.append((final.status, final.usage, merged([normal(one) for one in render(chunks)])))
        if frames[0] == frames[1]:
            return
    assert frames[0] == frames[1]


async def test_bulk_passes_the_front_and_calls_do_not(engine: Engine) -> None:
    bulk = engine.begin("job_bulk", Lane.BULK)
    await eventually(lambda: engine.stats().running == 1)
    assert (engine.front.held, engine.here()) == (1, 0)
    steps = engine.progress()
    await eventually(lambda: engine.progress() != steps)  # the watch over the engine sees bulk's steps too
    call = engine.begin("job_call", Lane.LOW)
    await engine.decodes(sequences=2)
    assert (engine.front.held, engine.here()) == (1, 1)
    for task in (bulk, call):
        task.cancel()
    await asyncio.wait((bulk, call))
    await engine.decodes(sequences=0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_abort_keeps_what_was_generated(engine: Engine, *, stream: bool) -> None:
    chunks: list[Chunk] = []
    run = asyncio.create_task(engine.ask("job_abort", CHAT, LONG, stream=stream, into=chunks))
    generated = engine.stats().generated
    await eventually(lambda: engine.stats().generated != generated)
    await engine.abort("job_abort")
    final = await asyncio.wait_for(run, 10)
    (choice,) = json.loads(final.body)["choices"]
    assert final.status == 200
    assert choice["finish_reason"] == "abort"
    assert choice["message"]["content"]
    assert bool(chunks) is stream
    await engine.decodes(sequences=0)


async def test_a_cancelled_run_frees_the_engine(engine: Engine) -> None:
    run = engine.begin("job_cancel", Lane.BULK, n=2, temperature=0.8)
    await engine.decodes(sequences=2)
    run.cancel()
    await asyncio.wait((run,))
    assert run.cancelled()
    await engine.decodes(sequences=0)
    assert not engine.front._running


async def test_many_answers_come_each_to_its_own(engine: Engine) -> None:
    bodies = [{"prompt": f"Number {n}", "max_tokens": 3 + n % 5, "ignore_eos": True} for n in range(60)]
    finals = await asyncio.gather(
        *(engine.ask(f"job_many_{n}", COMPLETIONS, body) for n, body in enumerate(bodies))
    )
    for n, (body, final) in enumerate(zip(bodies, finals, strict=True)):
        answer = json.loads(final.body)
        assert answer["id"] == f"cmpl-job_many_{n}"
        assert answer["usage"]["completion_tokens"] == body["max_tokens"]


async def test_both_fronts_answer_by_new_weights(
    engine: Engine, vllm_settings: VllmSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tiny = Path(vllm_settings.model)
    other = noisy(tiny, tmp_path_factory.mktemp("weights") / "other")

    async def texts() -> list[str]:
        finals = [await engine.ask("job_text", CHAT, SAY, lane=lane) for lane in (Lane.NORMAL, Lane.BULK)]
        return [normal(one.body.decode()) for one in finals]

    before = await texts()
    try:
        await engine.reload(str(other))
        after = await texts()
    finally:
        await engine.reload(str(tiny))
    assert after[0] == after[1] != before[0]
    assert await texts() == before


@pytest_asyncio.fixture(loop_scope="session")
async def doomed(vllm_settings: VllmSettings) -> AsyncIterator[Engine]:
    engine = await started(vllm_settings)
    yield engine
    await engine.stop()


async def test_requests_of_a_killed_front_fail_and_the_engine_goes_on_with_one(doomed: Engine) -> None:
    bulk = [doomed.begin(f"job_bulk_{n}", Lane.BULK) for n in range(3)]
    call = doomed.begin("job_call", Lane.LOW)
    await doomed.decodes(sequences=4)
    pid = doomed.front.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for one in await asyncio.wait_for(asyncio.gather(*bulk, return_exceptions=True), 10):
        assert isinstance(one, EngineDeadError)
    await doomed.check()
    # The engine process runs nothing for nobody.
    await eventually(lambda: [one.num_running_reqs for one in doomed._steps._last.values()] == [1])
    final = await doomed.ask("job_again", CHAT, {**SAY, "max_tokens": 5, "ignore_eos": True})
    assert final.usage is not None
    assert final.usage.completion_tokens == 5
    assert not call.done()
    await doomed.abort("job_call")
    assert (await asyncio.wait_for(call, 10)).status == 200


async def test_requests_of_the_front_fail_with_the_engine_process(doomed: Engine) -> None:
    run = doomed.begin("job_bulk", Lane.BULK)
    await doomed.decodes(sequences=1)
    (core,) = doomed._llm.engine_core.resources.engine_manager.processes
    core.kill()
    with pytest.raises(EngineDeadError):
        await asyncio.wait_for(run, 20)
    with pytest.raises(EngineDeadError):
        await doomed.check()


async def test_it_sleeps_and_stops_with_the_engine(vllm_settings: VllmSettings) -> None:
    engine = await started(vllm_settings)
    try:
        before, pid = await engine.ask("job_before", CHAT, SAY), engine.front.pid
        assert pid is not None
        await engine.sleep()
        await eventually(lambda: not psutil.pid_exists(pid))
        await engine.wake()
        after, pid = await engine.ask("job_before", CHAT, SAY), engine.front.pid
        assert pid is not None
        assert normal(after.body.decode()) == normal(before.body.decode())
        assert engine._leash is not None
        assert pid in engine._leash._held
    finally:
        await engine.stop()
    assert not psutil.pid_exists(pid)


@pytest.mark.full
async def test_both_fronts_see_the_same_image(vllm_settings: VllmSettings, tiny_model_path: Path) -> None:
    """Each has a cache of processed images, and the engine process has none: they would disagree about its content."""
    path = build_tiny_model(tiny_model_path.parent, TINY_MODELS["tiny-vision"])
    engine = await started(
        VllmSettings.tiny(path, name="tiny-vision", max_num_seqs=16, extra_args=vllm_settings.extra_args)
    )
    try:
        said = []
        for color in ("red", "blue", "red"):
            body = {"messages": shows(data_uri(picture(color)))}
            for lane in (Lane.NORMAL, Lane.BULK, Lane.BULK):
                final = await engine.ask("job_image", CHAT, body, lane=lane)
                assert final.status == 200
                said.append((color, normal(final.body.decode())))
        assert len(said) == 9
        assert len(set(said)) == 2
    finally:
        await engine.stop()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"lane_scheduler": False}, "the scheduler with lanes is not used"),
        ({"adapters": 1}, "each LoRA adapter"),
        ({"extra_args": ("--data-parallel-size=2",)}, "several data-parallel ranks"),
    ],
)
async def test_what_it_does_not_fit_is_refused(
    vllm_settings: VllmSettings, more: dict[str, Any], why: str
) -> None:
    engine = Engine(replace(vllm_settings, bulk_front=True, **more))
    with pytest.raises(EngineStartError, match=why):
        await engine.start()
