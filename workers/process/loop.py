"""The engine's event loop in a thread of its own, with everything that must live on it.

Celery's thread hands it job ids and is told of outcomes. The lease is prolonged from this loop on purpose: a loop that no
longer turns must lose its jobs.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog
import uvloop

from broker.batch_chunks import ChunkStore
from broker.db.client import connect
from broker.db.errors import StoreUnavailableError
from broker.db.urls import without_password
from broker.events.subscriber import Subscriber
from broker.events.token_counts import CountRequest, CountServer
from broker.jobs import JobStore
from broker.reaper import reap_forever
from broker.registry import DRAIN
from jobs.placement import Device
from jobs.retry import RetryPolicy
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from monitoring.tracing import Tracer
from storage import Storage, open_storage
from workers.admission.policy import LaneController
from workers.admission.rooms import Rooms
from workers.attempts.endings import ENGINE_DEAD, FENCED, RELEASED, Outcome
from workers.attempts.runner import Runner
from workers.attempts.spans import tracer_for
from workers.batches.chunk import BulkRuns
from workers.batches.row import RowRunner
from workers.engines.base import Engine, EngineDeadError, EngineStartError
from workers.process.pulse import GpuWatch
from workers.process.registration import description, register
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")


class EngineHost:
    """Owns the engine, the runner, the lease and their loop.

    Args:
        settings: the worker's settings.
        engine: not yet started.
        device: what the engine runs on.
        metrics: the worker's metrics.
        on_dead: called (on the loop) when this process must end: the lease is lost or the engine died.
        on_drain: called (on the loop) when somebody asked for a drain, with the seconds it may take; None: as set.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        device: Device,
        metrics: WorkerMetrics,
        on_dead: Callable[[str], None],
        on_drain: Callable[[float | None], None],
    ) -> None:
        self.settings = settings
        self.engine = engine
        self._device = device
        self.worker = f"{settings.node_name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._metrics = metrics
        self._on_dead = on_dead
        self._on_drain = on_drain
        self._draining = False
        self.rooms: Rooms | None = None
        self._news = asyncio.Event()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: set[asyncio.Task[Outcome]] = set()
        self._store: JobStore | None = None
        self._runner: Runner | None = None
        self._storage: Storage | None = None
        self._control: Subscriber | None = None
        self._tracer = Tracer()
        self._answerer: CountServer | None = None
        self.info: dict[str, Any] = {}
        self.gpus = GpuWatch()
        self._stopping = False
        self._dead = False

    # ---- called from other threads -----------------------------------------------------------------------------

    def start(self, info: Callable[[], dict[str, Any]]) -> None:
        """Start loop and engine, register the worker and begin to beat. Blocks until all of it stands.

        Args:
            info: called once the engine runs, for further facts of the worker's record.

        Raises:
            EngineStartError: with a message for the operator.
        """
        self._thread.start()
        self._call(self._start(info))

    def submit_job(self, job_id: str, done: Callable[[Outcome | BaseException], None]) -> None:
        """Run a job; ``done`` is called on the loop with its outcome, or with what broke the runner."""
        self._loop.call_soon_threadsafe(self._spawn, job_id, done)

    def _spawn(self, job_id: str, done: Callable[[Outcome | BaseException], None]) -> None:
        if self._runner is None:
            done(RuntimeError("the engine host has not been started"))
            return

        def settle(task: asyncio.Task[Outcome]) -> None:
            self._jobs.discard(task)
            if task.cancelled():
                done(asyncio.CancelledError())
            else:
                done(task.exception() or task.result())

        task = self._loop.create_task(self._runner.run(job_id))
        self._jobs.add(task)
        task.add_done_callback(settle)

    def bulk_room(self) -> int:
        """Return how many more bulk messages may be taken now."""
        return 0 if self.rooms is None else self.rooms.messages()

    def held_s(self) -> float:
        """Return after how many seconds to ask again where :meth:`bulk_room` is 0."""
        return 1.0 if self.rooms is None else self.rooms.held_s()

    def cancel_job(self, job_id: str) -> str:
        """Cancel a job, wherever it is. Returns its state, or why that is not known."""
        if self._store is None:
            return "unknown"
        try:
            return self._call(self._store.cancel(job_id)) or "unknown"
        except StoreUnavailableError as error:
            return str(error)

    def drain(self, timeout_s: float) -> None:
        """Give running jobs ``timeout_s`` seconds, then give back the rest. Returns at once."""

        def begin() -> None:
            self._draining = True
            self._news.set()
            self._loop.call_later(timeout_s, self._release_all)

        self._loop.call_soon_threadsafe(begin)

    def _release_all(self) -> None:
        if self._runner is not None:
            log.info("drain_deadline", running=self._runner.running)
            self._runner.stop_all(RELEASED)

    def stop(self) -> None:
        """End the lease, stop the engine and the loop. Safe after a failed start."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # ---- on the loop -------------------------------------------------------------------------------------------

    async def _start(self, info: Callable[[], dict[str, Any]]) -> None:
        s = self.settings
        await self.engine.start()
        log.info("engine_ready", engine=self.engine.name)
        self._tracer = await asyncio.to_thread(tracer_for, s, self.worker)
        self._store = store = JobStore(connect(s.redis_url), s)
        capacity = s.concurrency or self.engine.capacity()
        lanes = LaneController(
            capacity, s.bulk_reserve, on_adjust=lambda reason: self._metrics.bulk_limits.labels(reason).inc()
        )
        self._metrics.bulk_limit.set_function(lambda: lanes.limit)
        self._metrics.capacity.set(capacity)
        self.rooms = rooms = Rooms(self.engine, lanes)
        self._metrics.rows_running.set_function(lambda: rooms.gate.running)
        retry = RetryPolicy(s.retry_base_s, s.retry_max_s)
        bulk = BulkRuns(
            RowRunner(self.engine, retry, s.max_result_bytes, self._tracer),
            self._open_storage,
            ChunkStore(store),
            self._metrics,
            rooms.gate,
            careful=capacity,
        )
        self._runner = runner = Runner(
            self.engine,
            store,
            self.worker,
            self._metrics,
            s.max_result_bytes,
            lambda why: self._die(f"the engine died: {why}"),
            tracer=self._tracer,
            pool=s.pool,
            bulk=bulk,
        )
        rooms.chunks, rooms.pending, rooms.claimed = bulk.chunks, bulk.pending, lambda: runner.running
        self._answerer = CountServer(store.client, store.keys, self.engine.count)
        said = description(s, self.engine, self._device, capacity, lanes.ceiling)
        self.info = said | {"started_at": time.time(), **info()}
        try:
            await register(store, self.worker, self._state(), self.engine, s.aliases)
            self._control = Subscriber(
                connect(s.redis_url, text=False),
                store.keys("ctl_channel", self.worker),
                self._on_control,
                lambda: None,  # a missed cancel comes with the next heartbeat
            )
            await self._control.start()
        except (StoreUnavailableError, TimeoutError) as error:
            msg = f"cannot reach Redis at {without_password(s.redis_url)}: {error or 'no answer'}"
            raise EngineStartError(msg) from error
        self._tasks = [
            asyncio.create_task(self._beat(), name="heartbeat"),
            asyncio.create_task(self.gpus.run(s.heartbeat_s), name="gpu watch"),
            asyncio.create_task(
                reap_forever(store, s.reap_interval_s, on_round=self._metrics.reaper.count), name="reaper"
            ),
        ]

        for task in self._tasks:
            task.add_done_callback(self._on_task_end)

    def _open_storage(self) -> Storage:
        if self._storage is None:
            self._storage = open_storage(self.settings)
        return self._storage

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A worker without a heartbeat or a reaper must not go on as if it had them."""
        if self._stopping or self._dead:
            return
        error = None if task.cancelled() else task.exception()
        log.error("task_ended", task=task.get_name(), error=repr(error))
        self._die(f"the {task.get_name()} ended: {error!r}")

    def _die(self, reason: str) -> None:
        self._dead = True
        self._on_dead(reason)

    def _state(self) -> dict[str, Any]:
        stats = self.engine.stats()
        return self.info | {
            "state": "draining" if self._draining else "ready",
            "running": self._runner.running if self._runner else 0,
            "chunks": sum(self.rooms.chunks()) if self.rooms else 0,
            "rows": self.rooms.gate.running if self.rooms else 0,
            "engine_running": stats.running,
            "engine_waiting": stats.waiting,
            "kv_cache_usage": stats.kv_cache_usage,
            "gpus": self.gpus.facts,
            **(self._runner.pulse.read(stats.generated) if self._runner else {}),
        }

    def _on_control(self, message: list[str]) -> None:
        question = CountRequest.decode(message)
        if question is not None:
            if self._answerer is not None:
                self._answerer.take(question)
            return
        self._obey(*message)

    def _obey(self, job_id: str, why: str) -> None:
        """Stop a job, or drain: what the control channel says at once and the heartbeat's answer says again."""
        if job_id != DRAIN:
            if self._runner is not None:
                self._runner.stop(job_id, why)
        elif not self._draining:
            self._draining = True
            self._on_drain(float(why) if why else None)

    async def _beat(self) -> None:
        store, runner = self._store, self._runner
        if store is None or runner is None:
            return
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.heartbeat_s):
                    await self._news.wait()
            self._news.clear()
            try:
                await self.engine.check()
            except EngineDeadError as error:
                log.exception("engine_died")
                runner.stop_all(ENGINE_DEAD)
                self._die(f"the engine died: {error}")
                return
            failpoints.hit("worker.before_beat")
            try:
                cancels = await store.heartbeat(self.worker, info=self._state())
            except StoreUnavailableError as error:
                log.warning("heartbeat_failed", error=str(error))
                self._metrics.beats_failed.inc()
                continue
            if cancels is None:
                log.error("lease_lost", worker=self.worker)
                runner.stop_all(FENCED)
                self._die("the lease was lost: this worker's jobs have been given to others")
                return
            self._metrics.beats.inc()
            for job_id, why in cancels.items():
                self._obey(job_id, why)

    async def _stop(self) -> None:
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control is not None:
            await self._control.stop()
        if self._answerer is not None:
            await self._answerer.stop()
        if self._store is not None:
            try:
                await self._store.bury(self.worker)
            except StoreUnavailableError as error:
                log.warning("bury_failed", error=str(error))
            await self._store.aclose()
        await self.engine.stop()
        await asyncio.to_thread(self._tracer.close)
