"""vLLM in this process: its engine client, its OpenAI app, and its engine core in a process of its own (ADR 0013).

It is started by :mod:`.boot`. Requests run through :mod:`.front`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.facts import EnginePriority, EngineStats
from workers.engines.base import (
    AdapterBrokenError,
    Emit,
    EngineDeadError,
    EngineRequest,
    EngineStartError,
    Final,
    ModelInfo,
)
from workers.engines.settings import VllmSettings
from workers.engines.vllm import lanes, reloading, wire
from workers.engines.vllm.adapters import VllmAdapters
from workers.engines.vllm.boot import FrontBoot, Learned, join, load, make_app, mend, slots
from workers.engines.vllm.bulk_front import BulkFront
from workers.engines.vllm.compact_streams import chats_stream
from workers.engines.vllm.front import DEAD, Front
from workers.engines.vllm.hub import check_reachable
from workers.engines.vllm.introduction import Started, introduce
from workers.engines.vllm.lane_report import LaneReport
from workers.engines.vllm.leash import Leash
from workers.engines.vllm.scratch import Sockets
from workers.engines.vllm.sleeping import Sleep
from workers.engines.vllm.start_errors import explain
from workers.engines.vllm.start_hints import check_format
from workers.engines.vllm.steps import Steps


class VllmEngine:
    """The engine ``vllm``; see :class:`workers.engines.base.Engine`."""

    name = "vllm"
    in_process = True

    def __init__(self, settings: VllmSettings) -> None:
        self._settings = settings
        self._llm: Any = None
        self._front = Front()
        self._close_media: Callable[[], Awaitable[None]] | None = None
        self._leash: Leash | None = None
        self._sockets: Sockets | None = None
        self._models: tuple[ModelInfo, ...] = ()
        self._steps = Steps()
        self._report = LaneReport()
        self._seen_steps = self._computed_s = 0
        self._lanes_on = False
        self._slots = 0
        self._bulk: BulkFront | None = None
        self._sleep = Sleep(settings, self.start, self.stop)
        self._priority = EnginePriority.UNKNOWN

    async def start(self) -> None:
        """See the Protocol. Loading happens in a thread: the event loop stays free, but holds the GIL at times."""
        settings = self._settings
        await asyncio.to_thread(check_format, settings.model)
        if settings.model.startswith(("/", "./", "../")) and not await asyncio.to_thread(
            Path(settings.model).is_dir
        ):
            raise EngineStartError(f"model folder {settings.model} does not exist")
        await asyncio.to_thread(check_reachable, settings.model)
        self._leash, self._sockets = Leash(), await asyncio.to_thread(Sockets)
        self._steps.clear()
        self._bulk = BulkFront(self._front.way.turns) if settings.bulk_front else None
        try:
            self._llm, args, self._close_media = await asyncio.to_thread(
                load, settings, self._leash, self._front.compact.taps, self._steps, self._bulk
            )
            self._read_config()
            if self._lanes_on:
                self._report.start(self._llm, self._held)
            await mend(self._llm)
            await self._open(args)
            if self._bulk is not None:
                await self._bulk.begin(self._llm, Learned(self._front.able, self._front.compact.shapes))
        except EngineStartError:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            raise EngineStartError(explain(error, wire.logged_errors())) from error

    async def join(self, boot: FrontBoot) -> None:
        """Be the bulk front of an engine that another process has started. :meth:`take_over` follows, in place of probes."""
        self._llm, args, self._close_media = await asyncio.to_thread(
            join, boot, self._front.compact.taps, self._steps
        )
        self._read_config()
        tasks = await self._make_app(args)
        if self._settings.compact_streams and "generate" in tasks:
            chats_stream(self._front.app, self._llm.model_config, self._front.compact.taps)

    def take_over(self, learned: Learned) -> None:
        """Know what the first front has learned."""
        self._front.able = learned.able
        self._front.compact.shapes.update(learned.shapes)

    def _read_config(self) -> None:
        config = self._llm.vllm_config
        self._slots, self._lanes_on = slots(config), lanes.used(config)

    async def _make_app(self, args: Any) -> tuple[str, ...]:
        """Build vLLM's app over the engine client. Returns the tasks of its model."""
        tasks: tuple[str, ...] = await self._llm.get_supported_tasks()
        self._front.serve(self._llm, await make_app(self._llm, args, tasks))
        return tasks

    async def _open(self, args: Any) -> None:
        """Build vLLM's app, and learn what it serves and how. ``args``: vLLM's parsed flags."""
        tasks, front = await self._make_app(args), self._front
        started = Started(self._llm, args, front.app, tasks)
        known = await introduce(self, started, self._settings, front.compact, front.auth)
        self._models, self._priority = known
        model = self._models[0]
        front.model, front.able = model.name, model.capabilities
        if self._llm.vllm_config.lora_config is not None:
            served = front.app.state.openai_serving_models
            front.adapters = VllmAdapters(self._llm, served, self.run, model.endpoints)

    def models(self) -> tuple[ModelInfo, ...]:
        """See the Protocol."""
        return self._models

    def capacity(self) -> int:
        """See the Protocol."""
        return self._slots

    def holds_bulk(self) -> bool:
        """See the Protocol."""
        return self._lanes_on

    def priority(self) -> EnginePriority:
        """See the Protocol."""
        return self._priority

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """See the Protocol."""
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(DEAD, reached=False)
        if self._bulk is not None and self._bulk.takes(request):
            return await self._bulk.run(request, emit)
        return await self._front.run(self._llm, request, emit)

    async def count(self, endpoint: str, body: bytes, priority: int = 0) -> int | None:
        """See the Protocol."""
        if self._sleep.asleep:
            return None
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(DEAD)
        return await self._front.count(self._llm, endpoint, body, priority)

    async def abort(self, request_id: str) -> None:
        """See the Protocol."""
        if self._llm is None or self._llm.errored:
            return
        if self._bulk is None or not self._bulk.abort(request_id):
            await self._front.abort(self._llm, request_id)

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See the Protocol."""
        await self.check()
        if self._front.adapters is None:
            raise AdapterBrokenError("this worker takes no adapters (adapters_max is 0)")
        await self._front.adapters.load(name, folder)

    async def unload_adapter(self, folder: Path) -> None:
        """See the Protocol."""
        await self.check()
        if self._front.adapters is not None:
            await self._front.adapters.unload(folder)

    def adapters(self) -> frozenset[Path]:
        """See the Protocol."""
        return frozenset() if self._front.adapters is None else self._front.adapters.folders()

    def stats(self) -> EngineStats:
        """See the Protocol."""
        if self._llm is None:
            return EngineStats(0, 0, 0.0)
        stats = self._steps.stats(self._held())
        if self._bulk is not None:
            stats = self._bulk.added_to(stats)
        return replace(stats, evictions=self._report.evictions, step_s=self._report.step_s)

    def counts(self) -> tuple[int, int, int]:
        """Return this front's requests that vLLM has, and its preemptions and generated tokens since the start."""
        return self._held(), *self._steps.counted()

    def _held(self) -> int:
        """Return how many requests vLLM has, of both fronts."""
        held: int = self._llm.output_processor.get_num_unfinished_requests()
        return held if self._bulk is None else held + self._bulk.held

    def progress(self) -> float | None:
        """See the Protocol. On a CPU one step may take minutes, so the seconds of computing count while no step ends."""
        llm = self._llm
        if llm is None or not llm.log_stats or not self._held():
            return None
        stepped, self._seen_steps = self._steps.count != self._seen_steps, self._steps.count
        if not stepped and self._leash is not None and llm.vllm_config.device_config.device_type == "cpu":
            self._computed_s = self._leash.cpu_s()  # it reads all of /proc: some milliseconds of the loop
        return self._seen_steps + self._computed_s

    async def check(self) -> None:
        """See the Protocol."""
        if self._llm is None and self._sleep.asleep:
            return
        if self._llm is None or self._llm.errored:
            raise EngineDeadError(DEAD)

    async def sleep(self) -> None:
        """See the Protocol."""
        await self._sleep.begin(self._llm)

    async def wake(self) -> None:
        """See the Protocol."""
        await self._sleep.end(self._llm)

    async def check_weights(self, model: str) -> None:
        """See the Protocol."""
        await reloading.check_weights(self._settings, self._llm, model)

    async def reload(self, model: str) -> None:
        """See the Protocol."""
        folder = await reloading.check_weights(self._settings, self._llm, model)
        await reloading.reload(self._llm, folder)
        names = self._settings.served_model_name or (self._settings.model,)
        self._settings = replace(
            self._settings, model=str(folder), served_model_name=names
        )  # of its next start
        self._sleep.weights = str(folder)

    async def stop(self) -> None:
        """See the Protocol."""
        bulk, self._bulk = self._bulk, None
        if bulk is not None:
            await bulk.stop()
        self._report.stop()
        self._front.adapters = None
        llm, self._llm = self._llm, None
        close_media, self._close_media = self._close_media, None
        leash, self._leash = self._leash, None
        sockets, self._sockets = self._sockets, None
        if llm is not None:
            if (reader := getattr(llm, "output_handler", None)) is not None:
                reader.cancel()  # or it reports the end of the engine process as a failure
            await asyncio.to_thread(llm.shutdown, _STOP_S)
            llm.shutdown = (
                _nothing  # it is called again when the client is collected, perhaps after its module
            )
        if close_media is not None:
            await close_media()
        if leash is not None:
            await asyncio.to_thread(leash.release)
        if sockets is not None:
            sockets.remove()


def _nothing(*_: object) -> None:
    """Do nothing."""


_STOP_S = 0.4
"""How long the engine process has to end by itself. It often takes its time, and killing it loses nothing."""
