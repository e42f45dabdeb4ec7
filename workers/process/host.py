"""The engine's host: it starts the engine and all that works with it on its loop, and closes all of it at the end."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import structlog

from broker.adapters import Adapters
from broker.claims import Claim
from broker.db.client import connect
from broker.db.errors import StoreError
from broker.jobs import JobStore
from broker.reaper import reap_forever
from jobs.placement import Device
from monitoring.metrics import WorkerMetrics
from monitoring.tracing import Tracer
from storage import StoredBodies, open_storage
from workers.adapters.declared import take_over
from workers.adapters.opening import open_adapters
from workers.adapters.pool import AdapterPool
from workers.admission.gate import Gate
from workers.attempts.attempt import Outcome
from workers.attempts.quarantine import Quarantine
from workers.attempts.reasons import StopReason
from workers.attempts.runner import Runner
from workers.attempts.spans import tracer_for
from workers.engines.base import Engine, EngineDeadError
from workers.engines.priority import report_priority
from workers.nodes.watch import NodeWatch, group_of
from workers.process.ending import Ending
from workers.process.engine_watch import EngineWatch
from workers.process.gpus import GpuWatch
from workers.process.lease import Lease
from workers.process.loop import EngineLoop
from workers.process.parts import Parts
from workers.process.pod_cost import Cluster, PodCost
from workers.process.record import Record
from workers.process.registration import description
from workers.process.reloads import Reloads
from workers.process.tasks import Tasks
from workers.process.watchdog import Watchdog
from workers.settings import WorkerSettings
from workers.swapping.boarding import board, load_under, member_for
from workers.swapping.effects import Consumer, Effects
from workers.swapping.member import SwapMember

log = structlog.get_logger(__name__)

_SUSPECT_WINDOW_S = 5.0
_MIN_STALL_S = 5.0
"""A loop that hangs for less may go on. Beyond that, and twice the lease, it has lost its jobs, and the process ends."""


class EngineHost:
    """Owns the engine and all that works with it.

    Args:
        engine: not yet started.

    Attributes:
        ending: how the process ends.
        gate: admission to the engine; from :meth:`start` on.
        quarantine: admission of suspects.
        info: the constant part of the worker's record; from :meth:`start` on.
    """

    gate: Gate
    _store: JobStore
    _runner: Runner

    def __init__(
        self, settings: WorkerSettings, engine: Engine, device: Device, metrics: WorkerMetrics
    ) -> None:
        self.settings, self.engine = settings, engine
        self._device, self._metrics = device, metrics
        self._made_at = time.monotonic()
        self.worker = f"{settings.node_name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._loop = EngineLoop()
        self.ending = Ending(
            self._loop,
            settings.drain_timeout_s,
            announce=self._announce,
            release=self._release,
            close=self._close,
        )
        self.gpus = GpuWatch()
        self.quarantine = Quarantine(_SUSPECT_WINDOW_S)
        self.info: dict[str, Any] = {}
        self._reloads = Reloads(engine, self._announce, lambda: self._member is not None)
        self._tracer = Tracer()
        self._lease: Lease | None = None
        self._adapters: AdapterPool | None = None
        self._tasks = Tasks(self.ending)
        self._consumer: Consumer | None = None
        self._member: SwapMember | None = None
        self._boarding: asyncio.Task[None] | None = None
        self._engine_lost = False

    # ---- called from other threads -----------------------------------------------------------------------------

    def start(self, info: Callable[[], dict[str, Any]]) -> None:
        """Start loop and engine, register the worker and begin to beat. Blocks until all of it is done.

        Args:
            info: called once the engine runs, for further facts of the worker's record.

        Raises:
            EngineStartError: with a message for the operator.
        """
        self._loop.start()
        self._loop.call(self._start(info))
        stall_s = max(_MIN_STALL_S, 2 * self.settings.lease_ttl_s)
        Watchdog(self._loop, stall_s, self.ending.die).start()

    def watch(self, consumer: Consumer) -> None:
        """Set what asks for the jobs that come to :meth:`submit`."""
        self._consumer = consumer

    def submit(self, claim: Claim, asked_ns: int, done: Callable[[Outcome | BaseException], None]) -> None:
        """Run a claimed job.

        Args:
            asked_ns: when the claim was sent, Unix nanoseconds.
            done: called on the loop with its outcome, or with the error that broke the runner.
        """
        self._loop.post(self._spawn, claim, asked_ns, done)

    def give_back(self, job_ids: Sequence[str]) -> None:
        """Return jobs to the queue that were claimed, and that nothing will run here."""
        self._loop.post(self._give_back, job_ids)

    def cancel(self, job_id: str) -> str:
        """Cancel a job, wherever it is. Returns its state, or why that is not known."""
        try:
            return self._loop.call(self._store.cancel(job_id)) or "unknown"
        except StoreError as error:
            return str(error)

    # ---- on the loop -------------------------------------------------------------------------------------------

    def _spawn(self, claim: Claim, asked_ns: int, done: Callable[[Outcome | BaseException], None]) -> None:
        self._tasks.run_job(self._runner.run(claim, asked_ns), done)

    def _give_back(self, job_ids: Sequence[str]) -> None:
        async def disown() -> None:
            with suppress(StoreError):  # the heartbeat finds them, too
                await self._store.disown(self.worker, job_ids)

        self._tasks.run_errand(disown())

    def _known(self) -> frozenset[str]:
        """Return the jobs that this worker knows as its own."""
        undelivered = frozenset[str]() if self._consumer is None else self._consumer.undelivered()
        return undelivered | self._runner.ids()

    async def _start(self, info: Callable[[], dict[str, Any]]) -> None:
        s = self.settings
        storage = cache(partial(open_storage, s))
        self._store = store = JobStore(
            connect(s.redis_url), s, self._metrics.store_faults.inc, StoredBodies(storage)
        )
        self._member = member_for(s, store, self.worker, lambda: self.ending.begun, self._announce)
        if self._member is None:
            await self.engine.start()
        else:
            self._boarding = await board(self._member)
            await load_under(self._boarding, self.engine.start())
        log.info("engine_ready", engine=self.engine.name)
        report_priority(self.engine.name, self.engine.priority())
        self._tracer = await asyncio.to_thread(tracer_for, s, self.worker)
        with suppress(StoreError):
            await store.large.look()
        self._adapters = await open_adapters(s, self.engine, store, self._metrics, storage, self.worker)
        parts = Parts(s, self.engine, store, storage, self._metrics, self._tracer)
        self.gate = gate = parts.gate()
        self._runner = parts.runner(
            self.worker,
            gate,
            device_share=self._device.count / parts.capacity,
            quarantine=self.quarantine,
            adapters=self._adapters,
            die=self.ending.die,
        )
        facts = description(s, self.engine, self._device, parts.capacity, parts.lanes.ceiling)
        started = {"started_at": time.time(), "start_s": round(time.monotonic() - self._made_at, 1)}
        self.info = facts | started | info()
        record = Record(
            self.info,
            self.engine,
            store,
            gate=gate,
            runner=self._runner,
            ending=self.ending,
            reloads=self._reloads,
            gpus=self.gpus,
            adapters=self._adapters,
            member=self._member,
            swap_group=s.swap_group,
        )
        self._lease = lease = Lease(
            store,
            self.worker,
            s.redis_url,
            s.heartbeat_s,
            engine=self.engine,
            runner=self._runner,
            ending=self.ending,
            metrics=self._metrics,
            state=record.now,
            known=self._known,
            look=None if self._member is None else self._member.look,
            on_adapters=self._adapters.changed if self._adapters else lambda _: None,
            reload=self._reloads.order,
        )
        await lease.take(s.aliases)
        reaper = reap_forever(store, s.reap_interval_s, on_round=self._metrics.reaper.count)
        watch = EngineWatch(self.engine, s.engine_stall_s, self._on_engine_death)
        services = {
            "heartbeat": lease.keep(),
            "engine watch": watch.run(s.heartbeat_s),
            "gpu watch": self.gpus.run(s.heartbeat_s),
            "reaper": reaper,
            "storage watch": store.large.keep_looking(s.heartbeat_s),
        }
        if s.pod_deletion_cost is not None:
            services["pod cost"] = PodCost(s.pod_deletion_cost, record.cost, Cluster.found()).run()
        if (group := group_of(s)) is not None:
            services["node watch"] = NodeWatch(store, group, self._on_engine_death).run(s.heartbeat_s)
        effects = Effects(
            self.engine,
            gate,
            self._runner,
            self._metrics,
            lambda: self._consumer,
            s.swap_drain_s,
            self._adapters,
            leaves=lambda: self.ending.begun,
        )
        services["reloads"] = self._reloads.run(effects)
        if self._member is not None and self._boarding is not None:
            self._boarding.cancel()
            self._member.boarded()
            services["swap member"] = self._member.run(effects)
        if s.adapters:
            self._tasks.run_errand(
                take_over(
                    s.adapters,
                    s.pool,
                    self.engine.models(),
                    Adapters(store),
                    storage,
                    most=s.adapters_per_pool,
                    most_bytes=s.adapter_max_bytes,
                )
            )
        if self._adapters is not None:
            services["adapters"] = self._adapters.keep()
        self._tasks.serve(services)

    def _on_engine_death(self, message: str) -> None:
        self._engine_lost = True
        self._runner.stop_all(StopReason.ENGINE_DEAD)
        self.ending.die(f"the engine died: {message}")

    def _announce(self) -> None:
        if self._lease is not None:
            self._lease.beat_now()

    def _release(self) -> None:
        log.info("drain_deadline", running=self._runner.running)
        died = self._runner.engine_died
        self._runner.stop_all(StopReason.ENGINE_DEAD if died else StopReason.RELEASED)

    async def _close(self) -> None:
        self._tasks.closing = True
        if self._tasks.jobs:
            log.warning("jobs_abandoned", jobs=len(self._tasks.jobs))
        abandoned = self._runner.ids() if self._lease is not None else frozenset()
        died = self._adapters is not None and await self._engine_has_died()
        boarding = [] if self._boarding is None else [self._boarding]
        await self._tasks.cancel(*boarding)
        closing = self._free(abandoned), asyncio.to_thread(self._tracer.close)
        ended = await asyncio.gather(*closing, return_exceptions=True)
        if self._adapters is not None:  # after the engine, which may read their files
            await asyncio.to_thread(self._adapters.close, died=died)
        for error in ended:
            if error is not None:
                raise error

    async def _engine_has_died(self) -> bool:
        """Return whether the engine has died, or hangs. It has not been stopped yet."""
        if self._engine_lost:
            return True
        try:
            await self.engine.check()
        except EngineDeadError:
            return True
        return False

    async def _free(self, abandoned: frozenset[str]) -> None:
        """End the lease and stop the engine; of a member of a swap group first the engine: the devices go with the lease."""
        if self._member is None:
            for error in await asyncio.gather(
                self._end_lease(abandoned), self.engine.stop(), return_exceptions=True
            ):
                if error is not None:
                    raise error
            return
        try:
            await self.engine.stop()
        finally:
            await self._member.give()
            await self._end_lease(abandoned)

    async def _end_lease(self, abandoned: frozenset[str]) -> None:
        if self._lease is not None:
            await self._lease.end(abandoned)
            await self._store.aclose()
