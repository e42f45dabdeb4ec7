"""From engine chunks to the event log: everything that gathered during a round trip goes out in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

import structlog

from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from jobs.stream_chunks import Chunk, Text, encode, merge
from monitoring import failpoints

log = structlog.get_logger(__name__)

_RETRY_S = 0.2


class StreamBuffer:
    """Chunks of one attempt that have not been written yet, merged where they may be."""

    __slots__ = ("_pending", "_sending", "_texts", "attempt", "begun", "dirty", "job_id", "seq")

    def __init__(self, job_id: str, attempt: int) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.seq = 0
        self.begun = False
        self.dirty = False
        self._pending: list[Chunk] = []
        self._texts: list[str] = []
        self._sending: list[tuple[int, str]] = []

    def put(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self.begun = True
        if isinstance(chunk, Text):
            self._texts.append(chunk.text)
            return
        self._settle()
        merged = merge(self._pending[-1], chunk) if self._pending else None
        if merged is None:
            self._pending.append(chunk)
        else:
            self._pending[-1] = merged

    def _settle(self) -> None:
        if self._texts:
            self._pending.append(Text("".join(self._texts)))
            self._texts.clear()

    def take(self) -> list[tuple[int, str]]:
        """Hand over what is not known to be written, as numbered payloads: who ends the attempt writes it all."""
        sending, self._sending = self._sending, []
        return sending + self._number()

    def send(self) -> list[tuple[int, str]]:
        """Hand over what is there as numbered payloads, to be written; see :meth:`sent`."""
        self._sending = self._number()
        return self._sending

    def sent(self) -> None:
        """Say that it is written."""
        self._sending = []

    def _number(self) -> list[tuple[int, str]]:
        self._settle()
        taken = []
        for chunk in self._pending:
            self.seq += 1
            taken.append((self.seq, encode(chunk)))
        self._pending.clear()
        return taken


class Flusher:
    """Writes the buffers of all running streams, one script call at a time.

    Args:
        store: the job store.
        on_refused: told of a job and its attempt, which no longer owns it.
    """

    def __init__(self, store: JobStore, on_refused: Callable[[str, int], None]) -> None:
        self._store = store
        self._on_refused = on_refused
        self._dirty: list[StreamBuffer] = []
        self._task: asyncio.Task[None] | None = None

    def touch(self, buffer: StreamBuffer) -> None:
        """Say that a buffer has something to write."""
        if buffer.dirty:
            return
        buffer.dirty = True
        self._dirty.append(buffer)
        if self._task is None:
            # It writes for all jobs, so its log lines must not bear the name of the one that woke it.
            self._task = asyncio.get_running_loop().create_task(self._flush(), context=Context())

    async def _flush(self) -> None:
        try:
            while self._dirty:
                buffers, self._dirty = self._dirty, []
                entries = []
                for buffer in buffers:
                    buffer.dirty = False
                    entries += [(buffer.job_id, buffer.attempt, seq, text) for seq, text in buffer.send()]
                if not entries:
                    continue
                failpoints.hit("worker.before_append")
                refused = await self._append(entries)
                failpoints.hit("worker.after_append")
                for buffer in buffers:
                    buffer.sent()
                for buffer in buffers if refused else ():
                    if buffer.job_id in refused:
                        self._on_refused(buffer.job_id, buffer.attempt)
        finally:
            self._task = None

    async def _append(self, entries: list[tuple[str, int, int, str]]) -> frozenset[str]:
        """Append, for as long as it takes: entries are numbered, so that trying again writes nothing twice."""
        while True:
            try:
                return await self._store.append(entries)
            except StoreUnavailableError as error:
                log.warning("append_delayed", entries=len(entries), error=str(error))
                await asyncio.sleep(_RETRY_S)
