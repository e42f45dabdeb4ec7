"""The lease: this worker's right to run jobs, and the orders that come with it.

It is prolonged from the engine's loop on purpose: a loop that hangs must lose its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from broker.adapters import CHANGED
from broker.db.calls.workers import Beat
from broker.db.client import connect
from broker.db.errors import StoreError, StoreFaultError, StoreUnavailableError
from broker.db.urls import without_password
from broker.events.subscriber import Subscriber
from broker.events.token_counts import CountRequest, CountServer
from broker.jobs import JobStore
from broker.registry import DRAIN, RELOAD, SWAP
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from workers.attempts.reasons import StopReason
from workers.attempts.runner import Runner
from workers.engines.base import Engine, EngineStartError
from workers.process.ending import Ending
from workers.process.registration import register

log = structlog.get_logger(__name__)


class Lease:
    """Takes the lease, prolongs it, and obeys what comes with it: cancels, drains, questions.

    Args:
        worker: this worker's incarnation.
        redis_url: for the control channel's own connection.
        engine: started.
        runner: runs the jobs; stops those that the store ends.
        ending: begun when the lease is lost, and by a drain.
        state: returns the worker's record as of now.
        known: returns the jobs that it knows as its own.
        look: has it look at its swap group; None: it has none.
        on_adapters: gets the version of its pool's adapters.
        reload: takes an order to load other weights; None: there is nothing to load.
    """

    def __init__(
        self,
        store: JobStore,
        worker: str,
        redis_url: str,
        interval_s: float,
        *,
        engine: Engine,
        runner: Runner,
        ending: Ending,
        metrics: WorkerMetrics,
        state: Callable[[], Mapping[str, Any]],
        known: Callable[[], frozenset[str]],
        on_adapters: Callable[[int | None], None],
        look: Callable[[], None] | None = None,
        reload: Callable[[str], None] | None = None,
    ) -> None:
        self._store, self._worker = store, worker
        self._redis_url, self._interval_s = redis_url, interval_s
        self._engine, self._runner, self._ending, self._metrics = engine, runner, ending, metrics
        self._state, self._known, self._look, self._reload = state, known, look, reload
        self._on_adapters = on_adapters
        self._unknown: frozenset[str] = frozenset()
        self._drains = False
        self._beat_now = asyncio.Event()
        self._counts = CountServer(store.client, store.keys, engine.count)
        # A cancel that is missed comes again with the next heartbeat.
        channel = store.keys("ctl_channel", worker)
        self._control = Subscriber(
            connect(redis_url, text=False), channel, self._on_control, lambda: None, store.faults
        )

    async def take(self, aliases: Sequence[str]) -> None:
        """Register the worker with its models, and listen to its control channel.

        Raises:
            EngineStartError: Redis is away, another worker disagrees, or the aliases are wrong.
        """
        try:
            await register(self._store, self._worker, self._state(), self._engine, aliases)
            await self._control.start()
        except (StoreUnavailableError, TimeoutError) as error:
            msg = f"cannot reach Redis at {without_password(self._redis_url)}: {error or 'no answer'}"
            raise EngineStartError(msg) from error
        except StoreFaultError as error:
            raise EngineStartError(str(error)) from error

    async def keep(self) -> None:
        """Prolong the lease until it is lost, which begins the worker's end.

        Raises:
            StoreFaultError: the heartbeat itself is wrong, so the lease will end.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._beat_now.wait()
            self._beat_now.clear()
            failpoints.hit("worker.before_beat")
            try:
                beat = await self._beat()
            except StoreUnavailableError as error:
                log.warning("heartbeat_failed", error=str(error))
                self._metrics.beats_failed.inc()
                continue
            if beat.lost:
                log.error("lease_lost", worker=self._worker)
                self._runner.stop_all(StopReason.FENCED)
                self._ending.die("the lease was lost: this worker's jobs have been given to others")
                return
            self._metrics.beats.inc()
            for subject, word in beat.orders:
                self._obey(subject, word)
            self._on_adapters(beat.adapters)
            await self._return_strays(beat.jobs or ())

    async def _beat(self) -> Beat:
        run, bulk_run = self._runner.accounts.runs.read()
        return await self._store.heartbeat(
            self._worker, info=self._state(), running=len(self._known()), run=run, bulk_run=bulk_run
        )

    async def _return_strays(self, jobs: Collection[str]) -> None:
        """Give back jobs that Redis counts as this worker's, and that it did not know at two heartbeats in a row.

        The answer to their claim was lost, and no later call could have it again.
        """
        unknown = frozenset(jobs) - self._known()
        strays, self._unknown = unknown & self._unknown, unknown
        if strays:
            await self._disown(strays)

    async def _disown(self, jobs: Collection[str]) -> None:
        log.warning("claims_given_back", jobs=sorted(jobs))
        try:
            await self._store.disown(self._worker, sorted(jobs))
        except StoreUnavailableError as error:  # the next heartbeats find them again
            log.warning("heartbeat_failed", error=str(error))

    def beat_now(self) -> None:
        """Send a heartbeat soon, as the worker's state has changed."""
        self._beat_now.set()

    async def end(self, abandoned: frozenset[str]) -> None:
        """Give up the lease. What was claimed and never begun here is given back.

        Args:
            abandoned: jobs whose attempts could not be ended. They are taken over in the next round of a reaper.
        """
        try:
            beat = await self._store.heartbeat(self._worker, running=0)
            if strays := frozenset(beat.jobs or ()) - abandoned:
                await self._disown(strays)
            await self._store.bury(self._worker)
        except StoreError as error:
            log.warning("bury_failed", error=str(error))
        await self._control.stop()
        await self._counts.stop()

    def _on_control(self, message: list[str]) -> None:
        question = CountRequest.decode(message)
        if question is None:
            self._obey(*message)
        else:
            self._counts.take(question)

    def _obey(self, subject: str, word: str) -> None:
        """Stop a job, or drain. The control channel says it at once, and each heartbeat's answer repeats it."""
        if subject == SWAP:
            if self._look is not None:
                self._look()
        elif subject == CHANGED:
            self._on_adapters(int(word))
        elif subject == RELOAD:
            if self._reload is not None:
                self._reload(word)
        elif subject != DRAIN:
            try:
                self._runner.stop(subject, StopReason(word))
            except ValueError:
                log.warning("order_not_known", job_id=subject, order=word)
        elif not self._drains:
            self._drains = True
            self._ending.drain(float(word) if word else None)
