"""The process of a bulk front (:mod:`.bulk_front`): runs what the worker hands it. Run as a script, with a socket's number.

It ends when the worker closes the socket or dies; the worker's leash holds it too.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
from functools import partial
from typing import Any

import structlog
import uvloop

from jobs.stream_chunks import Chunk, encode
from monitoring.logging import configure_logging
from workers.engines.base import EngineDeadError, EngineRequest, Upload
from workers.engines.vllm import bulk_front_wire as wire
from workers.engines.vllm.engine import VllmEngine
from workers.garbage import collect_seldom

log = structlog.get_logger(__name__)

_COUNT_S = 0.2
"""Between two words of its counts."""


class FrontProcess:
    """Answers the worker's messages.

    Args:
        engine: joined to the engine core.
    """

    def __init__(self, engine: VllmEngine, to_worker: wire.Wire[wire.ToFront]) -> None:
        self._engine, self._wire = engine, to_worker
        self._runs: dict[int, tuple[str, asyncio.Task[None]]] = {}
        self._aborts: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until the worker is gone."""
        self._wire.send(wire.Ready())
        counting = asyncio.get_running_loop().create_task(self._count())
        try:
            while True:
                for message in await self._wire.receive():
                    self._take(message)
        except EOFError:
            pass
        finally:
            counting.cancel()
            for _, task in self._runs.values():
                task.cancel()

    def _take(self, message: wire.ToFront) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(message, wire.Run):
            self._runs[message.number] = message.id, loop.create_task(self._run(message))
        elif (found := self._runs.get(message.number)) is None:
            return  # it has just ended
        elif isinstance(message, wire.Cancel):
            found[1].cancel()
        else:
            abort = loop.create_task(self._engine.abort(found[0]))
            self._aborts.add(abort)
            abort.add_done_callback(self._aborts.discard)

    async def _run(self, asked: wire.Run) -> None:
        number, send = asked.number, self._wire.send

        def emit(chunk: Chunk) -> None:
            send(wire.Streamed(number, encode(chunk)))

        request = EngineRequest(
            asked.id,
            asked.endpoint,
            asked.body,
            asked.stream,
            asked.priority,
            asked.attempt,
            asked.trace,
            partial(send, wire.HandedOver(number)),
            asked.tenant,
            None if asked.upload is None else Upload(*asked.upload),
        )
        try:
            final = await self._engine.run(request, emit)
        except asyncio.CancelledError:
            send(wire.Crashed(number, None))
        except EngineDeadError as error:
            send(wire.Died(number, str(error), error.reached))
        except Exception as error:
            log.exception("run_crashed", job_id=asked.id, attempt=asked.attempt)
            send(wire.Crashed(number, f"{type(error).__name__}: {error}"))
        else:
            send(wire.Ended(number, final.status, final.body, final.usage))
        finally:
            del self._runs[number]

    async def _count(self) -> None:
        before = wire.Counts()
        while True:
            await asyncio.sleep(_COUNT_S)
            held, preemptions, generated = self._engine.counts()
            if (now := wire.Counts(held, preemptions, generated)) != before:
                before = now
                self._wire.send(now)


async def _serve(ours: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    to_worker: wire.Wire[wire.ToFront] = wire.Wire(reader, writer, wire.ToFront)
    try:
        boot: Any = pickle.loads(await to_worker.receive_bytes())  # noqa: S301 - of the worker, our parent
        configure_logging(as_json=boot.settings.log_json, service="worker")
        engine = VllmEngine(boot.settings)
        joining = asyncio.get_running_loop().create_task(engine.join(boot))
        learned: Any = pickle.loads(await to_worker.receive_bytes())  # noqa: S301 - likewise
        try:
            await joining
            engine.take_over(learned)
        except Exception as error:
            log.exception("bulk_front_failed")
            to_worker.send(wire.Failed(f"{type(error).__name__}: {error}"))
            await asyncio.sleep(0)
            to_worker.close()
            return
        collect_seldom()
        await FrontProcess(engine, to_worker).serve()
        await engine.stop()
    except EOFError:  # the worker gave up its start, and a thread may wait long for the engine core
        os._exit(0)


def main(number: int) -> None:
    """Serve over the socket with this file descriptor."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # they reach the whole group; the worker decides what they mean
    uvloop.run(_serve(socket.socket(fileno=number)))
    os._exit(0)  # no thread of vLLM's that still waits for the engine core holds it up


if __name__ == "__main__":
    main(int(sys.argv[1]))
