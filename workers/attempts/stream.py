"""From engine chunks to the event log: all chunks that come during one round trip are written in the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeAlias

import structlog

from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.jobs import JobStore
from jobs.stream_chunks import Chunk, Text, encode, merge
from monitoring import failpoints

log = structlog.get_logger(__name__)

_RETRY_S = 0.2

_Entry: TypeAlias = tuple[str, int, int, str]


class StreamBuffer:
    """Chunks of one attempt that are not written yet, merged if possible.

    Attributes:
        held: Redis refused its chunks for a fault. The attempt's end writes them, or fails.
    """

    __slots__ = (
        *("_pending", "_reasons", "_sending", "_texts"),
        *("attempt", "begun", "dirty", "held", "job_id", "seq"),
    )

    def __init__(self, job_id: str, attempt: int) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.seq = 0
        self.begun = False
        self.dirty = False
        self.held = False
        self._pending: list[Chunk] = []
        self._texts: list[str] = []
        self._reasons = False
        self._sending: list[tuple[int, str]] = []

    def append(self, chunk: Chunk) -> None:
        """Add a chunk."""
        self.begun = True
        if isinstance(chunk, Text):
            if chunk.reasoning is not self._reasons:
                self._join_texts()
                self._reasons = chunk.reasoning
            self._texts.append(chunk.text)
            return
        self._join_texts()
        merged = merge(self._pending[-1], chunk) if self._pending else None
        if merged is None:
            self._pending.append(chunk)
        else:
            self._pending[-1] = merged

    def _join_texts(self) -> None:
        if self._texts:
            self._pending.append(Text("".join(self._texts), self._reasons))
            self._texts.clear()

    def take(self) -> list[tuple[int, str]]:
        """Hand over all that is not known to be written, as numbered payloads. The attempt's end writes them."""
        sending, self._sending = self._sending, []
        return sending + self._number()

    def send(self) -> list[tuple[int, str]]:
        """Hand over what is not known to be written, as numbered payloads; :meth:`sent` confirms that they are."""
        if self.held:
            return []
        self._sending += self._number()
        return self._sending

    def sent(self) -> None:
        """Confirm what :meth:`send` handed over."""
        if not self.held:
            self._sending = []

    def _number(self) -> list[tuple[int, str]]:
        self._join_texts()
        taken = []
        for chunk in self._pending:
            self.seq += 1
            taken.append((self.seq, encode(chunk)))
        self._pending.clear()
        return taken


class Flusher:
    """Writes the buffers of all running streams, one script call at a time.

    Args:
        on_refused: called with a job and the number of its attempt, when that attempt no longer owns the job.
    """

    def __init__(self, store: JobStore, on_refused: Callable[[str, int], None]) -> None:
        self._store = store
        self._on_refused = on_refused
        self._dirty: list[StreamBuffer] = []
        self._task: asyncio.Task[None] | None = None

    def schedule(self, buffer: StreamBuffer) -> None:
        """Have a buffer written soon."""
        if buffer.dirty:
            return
        buffer.dirty = True
        self._dirty.append(buffer)
        if self._task is None:
            # It writes for all jobs, so its log lines must not carry the id of the one that started it.
            self._task = asyncio.get_running_loop().create_task(self._flush(), context=Context())

    async def _flush(self) -> None:
        try:
            while self._dirty:
                buffers, self._dirty = self._dirty, []
                for buffer in buffers:
                    buffer.dirty = False
                try:
                    await self._write(buffers)
                except Exception:  # the chunks go out with the next ones, or with the attempt's end
                    log.exception("append_failed", streams=len(buffers))
        finally:
            self._task = None

    async def _write(self, buffers: list[StreamBuffer]) -> None:
        groups: list[list[_Entry]] = [
            [(buffer.job_id, buffer.attempt, seq, text) for seq, text in buffer.send()] for buffer in buffers
        ]
        if not any(groups):
            return
        failpoints.hit("worker.before_append")
        try:
            refused = await self._append([entry for group in groups for entry in group])
        except StoreFaultError:
            refused = await self._append_each(buffers, groups)
        failpoints.hit("worker.after_append")
        for buffer in buffers:
            buffer.sent()
        for buffer in buffers if refused else ():
            if buffer.job_id in refused:
                self._on_refused(buffer.job_id, buffer.attempt)

    async def _append_each(self, buffers: list[StreamBuffer], groups: list[list[_Entry]]) -> frozenset[str]:
        """Append the chunks of each job alone, so that those of one that Redis refuses hinder no other."""
        refused: frozenset[str] = frozenset()
        for buffer, entries in zip(buffers, groups, strict=True):
            try:
                refused |= await self._append(entries)
            except StoreFaultError:
                buffer.held = True
        return refused

    async def _append(self, entries: list[_Entry]) -> frozenset[str]:
        """Append, until Redis has it: entries are numbered, so that a retry writes nothing twice.

        Raises:
            StoreFaultError: Redis refuses them, now and later.
        """
        while True:
            try:
                return await self._store.append(entries)
            except StoreUnavailableError as error:
                log.warning("append_delayed", entries=len(entries), error=str(error))
                await asyncio.sleep(_RETRY_S)
