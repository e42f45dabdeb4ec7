"""Making the calls: a number of callers, or arrivals at a rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from penstock.bench.answer import Reader
from penstock.bench.connection import Address, Connection, CutError
from penstock.bench.figures import Call, Figures

_PAUSE_S = 0.1
"""A caller's pause after a call that failed, so that refusals do not become a flood of their own."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked for.

    Attributes:
        concurrency: callers, each of which sends its next call when it has its answer; with ``rate``: the most calls at
            once.
        rate: calls a second that arrive at random (Poisson), whatever the server does; None: as the callers send them.
        duration_s: how long is measured; None: until ``requests`` were sent.
        requests: calls to send; None: no such limit.
        warm_up_s: how long the load runs before it is measured.
        timeout_s: longest time of a call.
        seed: of the arrivals.
    """

    concurrency: int
    rate: float | None = None
    duration_s: float | None = None
    requests: int | None = None
    warm_up_s: float = 0.0
    timeout_s: float = 300.0
    seed: int = 1


class Run:
    """One run of a load.

    Args:
        address: where to.
        path: the endpoint.
        bodies: the next body for each call.
        streamed: whether the answers stream.
        figures: gets what is seen.
    """

    def __init__(
        self,
        address: Address,
        path: str,
        bodies: Iterator[bytes],
        load: Load,
        figures: Figures,
        *,
        streamed: bool,
    ) -> None:
        self._address, self._path, self._bodies = address, path, bodies
        self._load, self._figures, self._streamed = load, figures, streamed
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._over, self._measured = asyncio.Event(), asyncio.Event()
        self._sent = 0

    def stop(self) -> None:
        """Send no more, and leave the calls that run. It is measured until now."""
        self._over.set()

    async def run(self) -> None:
        """Make the calls until the load is done, or :meth:`stop`."""
        figures = self._figures
        clock = asyncio.create_task(self._measure())
        stopped = asyncio.create_task(self._wait_for_stop())
        sending = asyncio.create_task(self._send())
        try:
            await asyncio.wait([sending, stopped], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # its error, if it has one
        finally:
            for task in (clock, stopped, sending):
                task.cancel()
            await asyncio.gather(clock, stopped, sending, return_exceptions=True)
            if figures.until is None:
                self._end_of_measure()
            for connection in self._open:
                connection.close()

    async def _wait_for_stop(self) -> None:
        await self._over.wait()

    async def _send(self) -> None:
        """Make all the calls."""
        if self._load.rate is not None:
            await self._arrivals()
        else:
            await asyncio.gather(*(self._caller() for _ in range(self._load.concurrency)))

    async def _measure(self) -> None:
        """Begin to measure after the warm-up, and end it in time."""
        figures, load = self._figures, self._load
        if load.warm_up_s:
            await asyncio.sleep(load.warm_up_s)
        self._sent = 0
        figures.since, self._cpu = time.perf_counter(), time.process_time()
        if load.duration_s is not None:
            await asyncio.sleep(load.duration_s)
            self._end_of_measure()  # the calls that run are awaited: without the longest ones, the tail would look short

    def _end_of_measure(self) -> None:
        figures = self._figures
        if figures.since is None:  # stopped while it warmed up
            figures.since, self._cpu = time.perf_counter(), time.process_time()
        figures.until = time.perf_counter()
        self._measured.set()
        figures.cpu_share = (time.process_time() - self._cpu) / max(figures.until - figures.since, 1e-9)

    def _next(self) -> bool:
        """Whether another call may be sent."""
        load, figures = self._load, self._figures
        if figures.until is not None or self._over.is_set():
            return False
        return load.requests is None or figures.since is None or self._sent < load.requests

    async def _caller(self) -> None:
        """Send calls one after the other."""
        await asyncio.sleep(0)  # measuring begins first
        while self._next():
            self._sent += 1
            call = await self._call()
            if call.code:
                await asyncio.sleep(_PAUSE_S)

    async def _arrivals(self) -> None:
        """Send calls at their times, however many run; then wait for those that run."""
        load, dice = self._load, random.Random(self._load.seed)
        running: set[asyncio.Task[Call]] = set()
        rate = load.rate or 1.0
        at = time.perf_counter()
        while True:
            at += dice.expovariate(rate)
            await self._pause(at - time.perf_counter())
            if not self._next():
                break
            if len(running) >= load.concurrency:
                self._figures.unsent += self._figures.since is not None
                await asyncio.sleep(0)
                continue
            self._sent += 1
            task = asyncio.create_task(self._call(at))
            running.add(task)
            task.add_done_callback(running.discard)
        try:
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than it is measured."""
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._measured.wait()

    async def _call(self, due: float | None = None) -> Call:
        """Make one call and count it. ``due``: see :class:`Call`."""
        figures, data = self._figures, self._address.post(self._path, next(self._bodies))
        call = Call(time.perf_counter(), due)
        figures.in_flight += 1
        try:
            async with asyncio.timeout(self._load.timeout_s):
                await self._exchange(data, call)
        except TimeoutError:
            call.code, call.message = "timeout", f"no whole answer within {self._load.timeout_s:g} s"
        except CutError as error:
            call.code, call.message = "cut", str(error)
        except OSError as error:
            call.code, call.message = "connection", str(error)
        except asyncio.CancelledError:
            figures.interrupt(call)
            raise
        finally:
            figures.in_flight -= 1
        call.ended = call.ended or time.perf_counter()
        figures.add(call)
        return call

    async def _exchange(self, data: bytes, call: Call) -> None:
        """Send it on an idle connection or a new one. An idle one that the server has just closed is replaced."""
        while True:
            connection = await self._connection()
            stale = not connection.fresh
            reader = Reader(call, streamed=self._streamed)
            try:
                status = await connection.call(data, reader.feed)
            except CutError as error:
                self._open.discard(connection)
                if stale and not error.begun:
                    continue
                raise
            reader.end(status)
            if connection.usable:
                self._idle.append(connection)
            else:
                self._open.discard(connection)
            return

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._open.discard(connection)
        connection = await Connection.open(self._address)
        self._open.add(connection)
        return connection
