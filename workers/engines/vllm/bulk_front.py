"""A second front of vLLM for bulk, in a process of its own on the same engine core (ADR 0048): the worker's side.

The process (:mod:`.bulk_front_process`) renders, makes tokens and texts, and builds the answers of bulk requests. It runs
:class:`workers.engines.vllm.engine.VllmEngine` as the engine core's second client. If it dies, its requests fail as those of
a connection that broke, the engine core forgets them, and the worker's own front serves bulk too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from jobs.facts import EngineStats
from jobs.stream_chunks import decode
from workers.engines.base import Emit, EngineDeadError, EngineRequest, EngineStartError, Final
from workers.engines.vllm import bulk_front_wire as wire
from workers.engines.vllm.lane_policy import BULK
from workers.engines.vllm.turns import Turns

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CLIENT = 1
"""Its number among the clients of the engine core; the worker's own front is 0."""

_SCRIPT = Path(__file__).with_name("bulk_front_process.py")
_START_S = 120.0
_CANCEL_S = 2.0
_END_S = 2.0
_LOST = "the worker's bulk front has ended"

Outcome: TypeAlias = Final | Exception | None
"""How a request ended; None: it was cancelled."""


class _Running:
    """A request that the front runs."""

    __slots__ = ("emit", "end", "request")

    def __init__(self, request: EngineRequest, emit: Emit) -> None:
        self.request, self.emit = request, emit
        self.end: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def over(self, outcome: Outcome) -> None:
        if not self.end.done():
            self.end.set_result(outcome)


class BulkFront:
    """The process, and the requests that it runs.

    Args:
        turns: of bulk on the worker's event loop, in which requests end.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._llm: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._wire: wire.Wire[wire.ToWorker] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._running: dict[int, _Running] = {}
        self._numbers = itertools.count()
        self._counts = wire.Counts()
        self._lost = False

    def takes(self, request: EngineRequest) -> bool:
        """Whether a request is its own: one of bulk, as long as the process lives."""
        return request.priority >= BULK and self._serving is not None and not self._lost

    def added_to(self, stats: EngineStats) -> EngineStats:
        """Return the statistics of the worker's own front, with its part of them."""
        preemptions = (stats.preemptions or 0) + self._counts.preemptions
        return replace(
            stats, preemptions=preemptions, generated=(stats.generated or 0) + self._counts.generated
        )

    @property
    def held(self) -> int:
        """Requests that it, or the engine core, has from us."""
        return max(self._counts.held, len(self._running)) if self._running else 0

    @property
    def pid(self) -> int | None:
        """The process."""
        return None if self._process is None else self._process.pid

    def launch(self, boot: Any) -> None:
        """Start the process. It waits for the engine core, and then for :meth:`begin`. Blocks a little.

        Args:
            boot: what it starts with (:class:`workers.engines.vllm.boot.FrontBoot`).
        """
        from multiprocessing.reduction import ForkingPickler  # as vLLM sends its config to the engine process

        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        pickled = bytes(ForkingPickler.dumps(boot))
        with contextlib.suppress(BrokenPipeError):  # `begin` says that it has ended
            self._socket.sendall(wire.framed(pickled))

    async def begin(self, llm: Any, learned: Any) -> None:
        """Wait until the process takes requests. Call it when the worker's own front has learned what vLLM does.

        Args:
            llm: vLLM's engine client of the worker.
            learned: see :class:`workers.engines.vllm.boot.Learned`.

        Raises:
            EngineStartError: it does not.
        """
        reader, writer = await asyncio.open_unix_connection(sock=self._socket)
        self._wire = wire.Wire(reader, writer, wire.ToWorker)
        self._wire.send_bytes(pickle.dumps(learned))
        try:
            async with asyncio.timeout(_START_S):
                said, *_ = await self._wire.receive()
        except (EOFError, TimeoutError):
            said = wire.Failed("its process has ended or hangs; the lines above may say why")
        if not isinstance(said, wire.Ready):
            why = said.why if isinstance(said, wire.Failed) else "it says something else"
            raise EngineStartError(f"the bulk front could not start: {why}")
        self._llm = llm
        self._serving = asyncio.get_running_loop().create_task(self._serve(self._wire), name="bulk-front")
        llm._run_output_handler()  # noqa: SLF001 - it runs already, unless vLLM had no request yet
        llm.output_handler.add_done_callback(lambda _: self._fail("vLLM's engine process is dead"))
        log.info("bulk_front_started", pid=self.pid)

    async def run(self, request: EngineRequest, emit: Emit) -> Final:
        """See :meth:`workers.engines.base.Engine.run`."""
        assert self._wire is not None  # noqa: S101 - it serves
        number, running = next(self._numbers), _Running(request, emit)
        self._running[number] = running
        upload = request.upload
        self._wire.send(
            wire.Run(
                number,
                request.id,
                request.endpoint,
                request.body,
                request.stream,
                request.priority,
                request.attempt,
                request.trace,
                request.tenant,
                None if upload is None else (upload.filename, upload.data),
            )
        )
        try:
            await asyncio.wait((running.end,))
        except asyncio.CancelledError:
            running.emit = _nowhere
            self._wire.send(wire.Cancel(number))
            await asyncio.wait((running.end,), timeout=_CANCEL_S)  # what it held is free then
            raise
        finally:
            del self._running[number]
        outcome = running.end.result()
        if outcome is None:
            raise RuntimeError("the bulk front cancelled the run")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def abort(self, request_id: str) -> bool:
        """See :meth:`workers.engines.base.Engine.abort`. Returns whether it runs such a request."""
        numbers = [number for number, one in self._running.items() if one.request.id == request_id]
        for number in numbers:
            if self._wire is not None:
                self._wire.send(wire.Abort(number))
        return bool(numbers)

    async def _serve(self, wire_: wire.Wire[wire.ToWorker]) -> None:
        """Take what the process says, until it has died."""
        try:
            while True:
                for message in await wire_.receive():
                    self._take(message)
        except EOFError:
            pass
        except Exception:
            log.exception("bulk_front_misread")
        self._lost = True
        wire_.close()
        log.error("bulk_front_lost", pid=self.pid, requests=len(self._running))
        self._fail(_LOST)
        await self._forget()

    def _fail(self, why: str) -> None:
        """End all requests as those of a dead engine. A killed engine process is noticed by the worker's front alone."""
        for running in list(self._running.values()):
            running.over(EngineDeadError(why))

    async def _forget(self) -> None:
        """Have the engine core end the requests that the process had there: nobody waits for them, or aborts them."""
        if self._llm.errored:
            return
        try:
            requests = await self._llm.engine_core.call_utility_async("forget_client", CLIENT)
        except Exception:  # an engine that dies is noticed elsewhere
            log.debug("bulk_front_not_forgotten", exc_info=True)
        else:
            log.info("bulk_front_forgotten", requests=requests)

    def _take(self, message: wire.ToWorker) -> None:
        if isinstance(message, wire.Counts):
            self._counts = message
            return
        if (
            isinstance(message, wire.Ready | wire.Failed)
            or (running := self._running.get(message.number)) is None
        ):
            return
        if isinstance(message, wire.Streamed):
            running.emit(decode(message.chunk))
        elif isinstance(message, wire.HandedOver):
            if running.request.handed_over is not None:
                running.request.handed_over()
        else:
            self._turns.after(partial(running.over, _outcome(message)))

    async def stop(self) -> None:
        """End the process. Safe to call twice."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
        self._fail(_LOST)
        if self._wire is not None:
            self._wire.close()
        elif self._socket is not None:
            with contextlib.suppress(OSError):  # it has ended
                # The engine process, a fork of this one, holds the socket too.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_end, process)


def _outcome(message: wire.Ended | wire.Died | wire.Crashed) -> Outcome:
    if isinstance(message, wire.Ended):
        return Final(message.status, message.body, message.usage)
    if isinstance(message, wire.Died):
        return EngineDeadError(message.why, reached=message.reached)
    return None if message.why is None else RuntimeError(message.why)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _nowhere(_: object) -> None:
    """Drop a chunk."""
