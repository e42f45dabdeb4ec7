"""What a swap does to this worker: stop claiming, let running jobs end, and free or take the devices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from monitoring.metrics import WorkerMetrics
from workers.admission.gate import Gate
from workers.attempts.runner import Runner
from workers.engines.base import Engine

log = structlog.get_logger(__name__)

_LOOK_S = 0.01
_LOOK_SELDOM_S = 0.1
_ANSWER_S = 30.0
"""Celery's loop turns at least once a second."""

_MOST_DOUBLINGS = 20
"""Of the time for running jobs. Beyond that the job's own time limit is what ends it."""


class Consumer(Protocol):
    """What asks for jobs, on a thread of its own."""

    @property
    def rests(self) -> int:
        """See :attr:`broker.celery.claimer.Claimer.rests`."""

    def wake(self) -> None:
        """Have it look at the gate now."""

    def undelivered(self) -> frozenset[str]:
        """Return the jobs of claims that have not reached the runner yet."""


class Adapters(Protocol):
    """The LoRA adapters of the engine; see :class:`workers.adapters.pool.AdapterPool`."""

    async def rest(self) -> None:
        """Unload them all."""

    def wake(self) -> None:
        """Load them again, as they are wanted."""


class Effects:
    """All of it is called on the engine's loop.

    Args:
        engine: started.
        gate, runner: of this worker.
        consumer: returns what asks for jobs; None: nothing does yet.
        drain_s: time for running jobs. Each time that a job was given back doubles it, so that a long job ends some day.
        adapters: the engine's LoRA adapters; None: it takes none.
        leaves: says whether the worker ends. Then what runs is the end's to wait for or to give back, and nothing here is.
    """

    def __init__(
        self,
        engine: Engine,
        gate: Gate,
        runner: Runner,
        metrics: WorkerMetrics,
        consumer: Callable[[], Consumer | None],
        drain_s: float,
        adapters: Adapters | None = None,
        *,
        leaves: Callable[[], bool],
    ) -> None:
        self._engine, self._gate, self._runner, self._metrics = engine, gate, runner, metrics
        self._consumer, self._drain_s, self._adapters = consumer, drain_s, adapters
        self.leaves = leaves

    @property
    def busy(self) -> bool:
        """Whether a job is here."""
        return bool(self._gate.jobs or self._runner.running)

    async def free_devices(self) -> float | None:
        """Take no more jobs, let the running ones end, give back the rest, and have the engine free the devices.

        Returns:
            Milliseconds that the engine took; None: the worker ends, which frees them.

        Raises:
            EngineDeadError: the engine is gone.
        """
        with self._timed("drain"):
            if not await self._rest(
                lambda: self._drain_s * 2.0 ** min(self._runner.releases, _MOST_DOUBLINGS)
            ):
                return None
        with self._timed("sleep") as took_ms:
            if self._adapters is not None:  # their weights go with the engine's
                await self._adapters.rest()
            await self._engine.sleep()
        return took_ms()

    async def rest(self, drain_s: float) -> bool:
        """Take no more jobs, let the running ones end within these seconds, and give back the rest.

        Returns:
            Whether none is left; False: the worker ends.
        """
        return await self._rest(lambda: drain_s)

    async def _rest(self, drain_s: Callable[[], float]) -> bool:
        self._gate.close()
        return await self._stop_claiming() and await self._let_end(drain_s)

    async def take_devices(self) -> float:
        """Have the engine take the devices, and take jobs again.

        Returns:
            Milliseconds that the engine took.

        Raises:
            EngineStartError: it cannot.
            EngineDeadError: the engine is gone.
        """
        with self._timed("wake") as took_ms:
            await self._engine.wake()
            if self._adapters is not None:
                self._adapters.wake()
        self._metrics.swaps.inc()
        return took_ms()

    def admit(self) -> None:
        """Take jobs again."""
        self._gate.open()
        if (consumer := self._consumer()) is not None:
            consumer.wake()

    def waited(self, seconds: float) -> None:
        """Note how long the devices came after they were asked for."""
        self._metrics.swap_time.labels("wait").observe(seconds)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[Callable[[], float]]:
        begun_s = time.monotonic()
        yield lambda: (time.monotonic() - begun_s) * 1000
        self._metrics.swap_time.labels(phase).observe(time.monotonic() - begun_s)

    async def _stop_claiming(self) -> bool:
        """Wait until no claim is on its way. The consumer asks only while the gate is open, else it rests."""
        consumer = self._consumer()
        if consumer is None:
            return True
        before, said_s = consumer.rests, time.monotonic()
        while consumer.rests == before:
            if self.leaves():  # it asks no more, so it never rests
                return False
            if time.monotonic() - said_s > _ANSWER_S:  # a claim's answer may be on its way, as Redis is away
                said_s = time.monotonic()
                log.warning("claims_do_not_rest")
            consumer.wake()
            await asyncio.sleep(_LOOK_S)
        return True

    async def _let_end(self, drain_s: Callable[[], float]) -> bool:
        """Wait for the running jobs. Chunks of batches go back once their running rows have ended: they begin no others."""
        begun_s = time.monotonic()
        while self._left() and not self.leaves() and time.monotonic() < begun_s + drain_s():
            if self._runner.running and self._only_chunks():
                break
            await asyncio.sleep(_LOOK_S)
        if self._runner.running and not self.leaves():
            waited_s = round(time.monotonic() - begun_s, 3)
            log.info("swap_gives_back", jobs=self._runner.running, waited_s=waited_s)
        while self._left() and not self.leaves():
            self._runner.release()
            await asyncio.sleep(_LOOK_SELDOM_S)
        return not self.leaves()

    def _left(self) -> bool:
        consumer = self._consumer()
        return self.busy or bool(consumer is not None and consumer.undelivered())

    def _only_chunks(self) -> bool:
        return not self._gate.running_rows and self._runner.running <= self._gate.chunks()
