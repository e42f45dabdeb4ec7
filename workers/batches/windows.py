"""Reading a chunk's rows from storage, window by window, as they are to run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from broker.batch_chunks import ChunkSpec
from jobs.batch_rows import read_row
from storage import Storage, StorageError
from storage.base import read_lines
from workers.admission.gate import ChunkSlots
from workers.batches.plan import WINDOW_BYTES, WINDOW_ROWS, Planner, Run, Window

_PAUSE_BYTES = 64 * 1024
"""Bytes of rows after which the engine's other requests get a turn: reading that much takes half a millisecond."""


class Windows:
    """The runs of one chunk.

    Args:
        planner: orders the rows of each window, and finds those that one run answers.
        slots: the chunk's places on the engine. Once something can be read, they are no longer stalled.
        on_storage_error: awaited when storage fails; reading is tried again after it.
    """

    def __init__(
        self,
        storage: Storage,
        spec: ChunkSpec,
        planner: Planner,
        slots: ChunkSlots,
        on_storage_error: Callable[[StorageError], Awaitable[None]],
    ) -> None:
        self._storage, self._spec, self._planner = storage, spec, planner
        self._slots, self._on_storage_error = slots, on_storage_error

    async def runs(self, done: frozenset[str]) -> AsyncIterator[Run]:
        """Yield the runs of the rows that are not in ``done``."""
        async for window in self._windows(done):
            for run in window.runs():
                yield run

    async def _windows(self, done: frozenset[str]) -> AsyncIterator[Window]:
        endpoint = self._spec.endpoint
        window = self._planner.window(endpoint)
        rows = size = paused_at = 0
        async for offset, lines in self._lines():
            at = offset
            for line in lines:
                if line and not line.isspace():
                    rows += 1
                    size += len(line)
                    if (row := read_row(line)).custom_id not in done:
                        window.add(row, at)
                    if rows >= WINDOW_ROWS or size >= WINDOW_BYTES:
                        yield window
                        window, rows, size, paused_at = self._planner.window(endpoint), 0, 0, 0
                    elif size - paused_at >= _PAUSE_BYTES:
                        paused_at = size
                        await asyncio.sleep(0)
                at += len(line) + 1
        yield window

    async def _lines(self) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Read the chunk's lines. After a failure of storage, reading continues where it failed."""
        at, end = self._spec.offset, self._spec.offset + self._spec.length
        while at < end:
            try:
                async for offset, lines in read_lines(self._storage, self._spec.input_key, at, end):
                    self._slots.stalled = False
                    yield offset, lines
                    at = offset + sum(len(line) + 1 for line in lines)
            except StorageError as error:
                await self._on_storage_error(error)
